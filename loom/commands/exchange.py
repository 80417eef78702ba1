"""`loom publish`, `ask` and `feedback`: documents and requests in, answers out, and what is said of them."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from loom.commands.common import AsJson, Broker, Data, Database, Project, client_of, connected_settings


def publish(
    names: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders, patterns in quotes, web addresses; - is standard input.")],
    watch: Annotated[bool, typer.Option("--watch", help="Go on: publish what changes in the folders, withdraw what is deleted, until Ctrl-C.")] = False,
    name: Annotated[str, typer.Option("--name", help="The document's id, for standard input.")] = "stdin.txt",
    kind: Annotated[str | None, typer.Option("--type", help="Media type of all of them, instead of what their names promise.")] = None,
    source: Annotated[str, typer.Option(help="The upstream's name.")] = "files",
    project: Project = None,
    data: Data = None,
    broker: Broker = None,
    as_json: AsJson = False,
) -> None:
    """Publish documents.

    Publishing the same tree twice changes nothing.

    Example: loom publish manuals/ notes.md "logs/**/*.log" --watch
    """
    from loom.sources import sources

    given = list(sources(names, name, kind))
    settings = connected_settings(project=project, data=data, broker=broker)

    async def run() -> list[str]:
        from rich.console import Console
        from rich.progress import Progress

        async with client_of(settings) as client:
            with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
                bar = progress.add_task("publishing", total=len(given))
                published = []
                async for doc_id in client.publish(given, source):
                    published.append(doc_id)
                    progress.update(bar, advance=1, description=doc_id[-40:])
            if watch:
                typer.echo(f"{len(published)} documents published, watching for changes", err=True)
                published += await _follow(client, [Path(folder) for folder in names if Path(folder).is_dir()], source, kind)
        return published

    published = asyncio.run(run())
    typer.echo(json.dumps({"documents": published}) if as_json else f"{len(published)} documents published")


async def _follow(client: Any, folders: Sequence[Path], source: str, kind: str | None) -> list[str]:
    """Publishes what changes in `folders` until Ctrl-C; what it published."""
    from watchfiles import Change, awatch

    from loom.sources import Source, inside_of, is_published
    from runtime.errors import SettingsError

    if not folders:
        raise SettingsError("--watch follows folders: name one")
    roots = [folder.resolve() for folder in folders]
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    published = []
    async for changes in awatch(*roots, stop_event=stop):
        for change, place in sorted(changes, key=lambda one: one[1]):
            path = Path(place)
            root = next(root for root in roots if path.is_relative_to(root))
            # what was written to a new folder before it was watched too makes no event of its own
            changed = [path / inside for inside in inside_of(path)] if path.is_dir() else [path]
            for file in changed:
                inside = file.relative_to(root)
                doc_id = f"{root.name}/{inside.as_posix()}"
                if not is_published(inside):
                    continue
                if change is Change.deleted and not file.exists():
                    await client.withdraw(doc_id, source)
                    typer.echo(f"withdrawn {doc_id}", err=True)
                elif file.is_file():
                    published += [done async for done in client.publish([Source(doc_id, file, kind)], source)]
                    typer.echo(f"published {doc_id}", err=True)
    return published


def label(
    names: Annotated[list[Path], typer.Argument(metavar="FILE...", help="JSON lines.")],
    adapter: Annotated[str, typer.Option("--adapter", help="Who learns from them.")],
    licence: Annotated[str, typer.Option("--licence", help="Theirs, where a line does not say its own.")] = "unknown",
    project: Project = None, data: Data = None, broker: Broker = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Publish labelled texts.

    Each line is an object with `text` and, by the adapter's task, `label`, `calls`, `entities` (`start`, `end` and `label`), or `answer` (of `passage`); `tools` are on offer instead of the declared ones, `rejected` is a wrong output,
    `group` keeps lines together on one side of the held-out split, `id` names a line so that another may replace it, and `withdrawn` takes it back. The same file twice counts once. A
    line that can't be learned from is named, and the others go on: exit code 1.

    Example: loom label tickets.jsonl --adapter classifier --licence CC-BY-4.0
    """
    from loom.labels import labels_of
    from runtime.errors import InvalidInput
    from streams.format import task_spec

    settings = connected_settings(project=project, data=data, broker=broker)
    bad: list[str] = []

    async def run() -> int:
        async with client_of(settings) as client:
            spec = task_spec(client.project, adapter)

            def good() -> Any:
                for one in (one for path in names for one in labels_of(path, adapter, spec, licence)):
                    if isinstance(one, InvalidInput):
                        bad.append(str(one))
                        typer.echo(str(one), err=True)
                    else:
                        yield one

            return int(await client.publish_labels(good()))

    published = asyncio.run(run())
    typer.echo(json.dumps({"labels": published, "bad": bad}) if as_json else f"{published} labels published" + (f", {len(bad)} lines can't be learned from" if bad else ""))
    raise typer.Exit(1 if bad else 0)


def ask(text: str, adapter: Annotated[str | None, typer.Option("--adapter", help="Skip the router: adapter, adapter@version or adapter@base.")] = None, context: Annotated[list[str] | None, typer.Option("--context", help="NAME=VALUE that the answer may use, NAME=@FILE for a file's text; `passage` is what a chat adapter reads, `history` the turns before as JSON: [{\"question\", \"answer\"}].")] = None, project: Project = None, data: Data = None, broker: Broker = None, as_json: AsJson = False) -> None:
    """Ask over Kafka and print what the result topics answer.

    Example: loom ask "Check the status of ticket #1234."
    Example: loom ask "How long does the battery last?" --context passage=@manual.txt
    """
    from runtime.errors import Transient

    async def run() -> Any:
        settings = connected_settings(project=project, data=data, broker=broker)
        async with client_of(settings) as client:
            try:
                return await client.ask(text, read_context(context or []), adapter)
            except TimeoutError:
                raise Transient("no answer within 60 s: is the inference worker up? see `loom status`") from None

    answered = asyncio.run(run())
    rows = [{"result_id": r.result_id, "topic": topic, "adapter": r.engine_name, "status": r.status, "text": r.text, "output": json.loads(r.output) if r.output else None, "error": r.error} for topic, r in answered.results]
    if as_json:
        typer.echo(json.dumps({"request_id": answered.completed.request_id, "status": answered.completed.status, "error": answered.completed.error, "results": rows}))
        return
    typer.echo(f"request {answered.completed.request_id}: {answered.completed.status}" + (f": {answered.completed.error}" if answered.completed.error else ""))
    for row in rows:
        typer.echo(f"{row['topic']:20} {row['adapter'] or '-':26} {json.dumps(row['output'])}" + (f"  {row['error']}" if row["error"] else ""))


def feedback(
    request: Annotated[str, typer.Argument(metavar="REQUEST", help="The request's id, as `loom ask` prints it.")],
    result: Annotated[str | None, typer.Option("--result", help="The result's id or its topic, where there are several.")] = None,
    accept: Annotated[bool, typer.Option("--accept", help="The answer is right.")] = False,
    correct: Annotated[str | None, typer.Option("--correct", help="The right answer, as JSON: a label, a call or null, a list of entities, a text.")] = None,
    rate: Annotated[float | None, typer.Option("--rate", min=0, max=1, help="How good it is.")] = None,
    project: Project = None, data: Data = None, broker: Broker = None, database: Database = None, as_json: AsJson = False,
) -> None:  # fmt: skip
    """Say of an answer that it is right, or what would have been.

    Enough corrections start a run that goes on from the live version.

    Example: loom feedback 3f9a… --correct '{"tool": "restart_hub", "hub_name": "garden"}'
    Example: loom feedback 3f9a… --result results.sentiment --correct NEGATIVE
    """
    from loom.client import Opinion
    from loom.processes import database_of
    from runtime.database import connect
    from runtime.errors import SettingsError
    from schemas.events import FeedbackVerdict

    if sum((accept, correct is not None, rate is not None)) != 1:
        raise SettingsError("say one of --accept, --correct and --rate")
    verdict = FeedbackVerdict.ACCEPTED if accept else FeedbackVerdict.CORRECTED if correct is not None else FeedbackVerdict.RATED
    settings = connected_settings(project=project, data=data, broker=broker, database=database)

    async def run() -> Any:
        pool = await connect(database_of(settings), size=1)
        try:
            async with client_of(settings) as client:
                return await client.say(pool, Opinion(request, result, verdict, _json_or_text(correct), rate))
        finally:
            await pool.close()

    said = asyncio.run(run())
    typer.echo(json.dumps({"feedback_id": said.feedback_id, "request_id": said.request_id, "result_id": said.result_id}) if as_json else f"feedback {said.feedback_id} on result {said.result_id}")


def _json_or_text(given: str | None) -> Any:
    try:
        return json.loads(given) if given is not None else None
    except ValueError:
        return given


def read_context(given: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE pairs as a request's context; the user is `current` unless named. Raises SettingsError for another form."""
    from runtime.errors import SettingsError

    context = {"user_id": "current"}
    for pair in given:
        name, found, value = pair.partition("=")
        if not (name and found):
            raise SettingsError(f"--context {pair!r} is not NAME=VALUE")
        try:
            context[name] = Path(value[1:]).read_text(errors="replace") if value.startswith("@") else value
        except OSError as error:
            raise SettingsError(f"--context {name}: {value[1:]} can't be read: {error.strerror}") from error
    return context
