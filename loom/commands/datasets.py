"""`loom snapshot` and `loom diff`: datasets as files, and what differs between two."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from loom.commands.common import AsJson, Broker, Data, Database, Project, client_of, connected_settings, fleet_of

At = Annotated[str, typer.Option("--at", help="now, a time such as 2026-01-31T12:00:00+00:00, or a version such as chat@3.")]


def snapshot(
    dataset: Annotated[str, typer.Argument(help="An adapter, cpt, preferences, or a version such as chat@3: what it was trained on.")],
    out: Annotated[Path, typer.Option("--out", help="An empty folder for the files.")],
    at: At = "now",
    project: Project = None,
    data: Data = None,
    broker: Broker = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Write a dataset as Parquet with a dataset card.

    It loads with the `datasets` library.

    Example: loom snapshot chat --at chat@3 --out chat-3
    """
    from loom.exports import snapshot as export
    from loom.processes import database_of
    from runtime.database import connect
    from runtime.sealing import PostgresKeys

    settings = connected_settings(project=project, data=data, broker=broker, database=database)

    async def run() -> dict[str, Any]:
        exporter, tasks = _exporter(settings)
        pool = await connect(database_of(settings), size=1)
        try:
            moment = await exporter.moment(dataset, at)
            return await export(exporter, PostgresKeys(pool), moment, out, tasks.get(moment.name, moment.name))
        finally:
            await pool.close()

    manifest = asyncio.run(run())
    rows = ", ".join(f"{f['rows']} {f['split']}" for f in manifest["files"].values())
    typer.echo(json.dumps(manifest) if as_json else f"{manifest['dataset']} at {manifest['at']}: {rows} examples in {out}")


def diff(before: str, after: str, project: Project = None, data: Data = None, broker: Broker = None, as_json: AsJson = False) -> None:
    """Name each example that came or went, and why.

    Between the datasets of two versions.

    Example: loom diff chat@3 chat@4
    """
    from rich.console import Console
    from rich.table import Table

    settings = connected_settings(project=project, data=data, broker=broker)

    async def run() -> Any:
        exporter, _ = _exporter(settings)
        return await exporter.differences(await exporter.moment(before), await exporter.moment(after))

    changes = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps([asdict(change) for change in changes]))
        return
    table = Table("example", "change", "why", "document")
    for change in changes:
        table.add_row(change.example_id, change.change, change.why, change.doc_id or "-")
    Console().print(table)
    typer.echo(f"{sum(c.change == 'came' for c in changes)} came, {sum(c.change == 'went' for c in changes)} went")


def lineage(
    what: Annotated[str, typer.Argument(metavar="ADAPTER@VERSION|DOC", help="A version such as tool@7 or base@1, or a document's id.")],
    project: Project = None,
    data: Data = None,
    broker: Broker = None,
    as_json: AsJson = False,
) -> None:
    """Trace a version to documents, or a document to versions.

    Example: loom lineage tool@7
    Example: loom lineage docs/manual.pdf
    """
    from loom.exports import VERSION
    from loom.lineage import Lineage, pages_in_words, provenance
    from loom.processes import codec_of
    from runtime.objects import Objects

    settings = connected_settings(project=project, data=data, broker=broker)
    version = VERSION.match(what)

    async def run() -> list[Any]:
        async with client_of(settings) as client:
            found = Lineage(await client.fleet(), Objects(settings.objects_url), await provenance(settings.broker, codec_of(settings, client.project), settings.prefix))
        return await found.of_version((version[1], int(version[2]))) if version else await found.of_document(what)

    found = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps([asdict(one) for one in found]))
    elif not version:
        for one in found:
            typer.echo(f"{one.name:16} {'live ' if one.live else '     '} " + (f"through {one.through}" if one.through else f"{one.examples} examples"))
        typer.echo(f"{len(found)} versions learned from {what}")
    else:
        for step in found:
            counts = f"{sum(d.examples for d in step.documents)} examples of {len(step.documents)} documents, {step.labels} labels, {step.corrections} words of users" + (f", {step.unknown} unknown" if step.unknown else "")
            typer.echo(f"{step.name} ({step.as_what}): {counts}; run {step.run_id}, dataset {step.dataset_sha256}")
            for document in step.documents:
                typer.echo(f"  {document.doc_id}: {document.examples} examples" + (f", pages {pages_in_words(document.pages)}" if document.pages else ""))


def replay(
    datasets: Annotated[bool, typer.Option("--datasets", help="Make every dataset again.")] = False,
    adapter: Annotated[str | None, typer.Option("--adapter", metavar="ADAPTER@VERSION", help="Train a version again, on the same examples.")] = None,
    name: Annotated[str, typer.Option("--name", help="The copy's topics begin with `replay-NAME.`; the time, where none is given.")] = "",
    project: Project = None,
    data: Data = None,
    broker: Broker = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Make datasets or a version again, and compare.

    Datasets from what is kept for ever, beside the live ones, byte for byte. A version from its manifest: the same examples byte for byte, the same
    training, the same scores within two points. Nothing is published.

    Example: loom replay --datasets --name after-upgrade
    Example: loom replay --adapter tool@7
    """
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

    from loom.replay import PHASES, replay_system
    from runtime.errors import SettingsError

    if datasets is (adapter is not None):
        raise SettingsError("say what to replay: --datasets, or --adapter tool@7")
    settings = connected_settings(project=project, data=data, broker=broker, database=database)
    if adapter is not None:
        _remake(adapter, settings, as_json)
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bars = {what: progress.add_task(what, total=None) for what in PHASES}
        report = asyncio.run(replay_system(settings, name or f"{datetime.now(UTC):%Y%m%dT%H%M%S}", lambda what, done, of: progress.update(bars[what], completed=done, total=of)))
    if as_json:
        typer.echo(json.dumps({**asdict(report), "datasets": [asdict(d) | {"same": d.same} for d in report.datasets]}))
    else:
        table = Table("dataset", "live", "replayed", "same")
        for d in report.datasets:
            table.add_row(d.dataset, str(d.live), str(d.replayed), "yes" if d.same else "no")
        Console().print(table)
        counts = ", ".join(f"{count} {what}" for what, count in report.counts.items()).replace("_", " ")
        typer.echo(f"{counts}; {report.made_seconds:.1f} s, with comparing {report.seconds:.1f} s; topics {report.prefix}datasets.*")
    raise typer.Exit(0 if all(d.same for d in report.datasets) else 1)


def _remake(name: str, settings: Any, as_json: bool) -> NoReturn:
    """Trains a version again and says how near it came. Raises typer.Exit, with 1 where it did not come near enough."""
    from rich.console import Console
    from rich.progress import Progress

    from loom.commands.adapters import version_of
    from loom.versions import run_of
    from trainers.remake import remake

    adapter, number = version_of(name)

    past = asyncio.run(run_of(fleet_of(settings), adapter, number, settings))
    with Progress(console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("training", total=None)
        made = remake(past.spec, past.version, past.manifest, lambda moment: progress.update(bar, completed=moment.step, total=moment.steps))
    if as_json:
        typer.echo(json.dumps({"version": name, **asdict(made), "holds": made.holds}))
    else:
        typer.echo(f"{made.examples} examples, {made.missing} missing; dataset {'the same' if made.same_dataset else 'another'}, weights {'the same' if made.same_weights else 'others'}")
        for metric, (was, now) in made.scores.items():
            typer.echo(f"  {metric:20} {was:.4f} then, {now:.4f} now")
    raise typer.Exit(0 if made.holds else 1)


def _exporter(settings: Any) -> tuple[Any, dict[str, str]]:
    """An exporter of the system, and each adapter's task."""
    from loom.exports import Exporter
    from loom.processes import codec_of
    from runtime.project import load_project

    project = load_project(settings.project)
    return Exporter(project, settings.broker, codec_of(settings, project), settings.prefix), {name: adapter.task for name, adapter in project.adapters.items()}
