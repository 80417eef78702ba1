"""`loom routes`: what messages adapters are chosen by, fitted and explained."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loom.commands.common import AsJson, Project, settings_of

if TYPE_CHECKING:
    from inference.routing.fit import Labelled
    from inference.routing.tune import Hear

Rows = Annotated[Path | None, typer.Option(help='JSON lines of {"text", "intents"}: adapters, or adapter/tool; [] is out of scope.')]


def routes(context: typer.Context, as_json: AsJson = False, project: Project = None) -> None:
    """Show, fit and explain what adapters are chosen by.

    Without a command it lists the routes, and what they were found to be worth.

    Example: loom routes --json
    """
    if context.invoked_subcommand is not None:
        return
    from rich.console import Console
    from rich.table import Table

    from inference.routing.decision import declared_routes, route_name
    from inference.routing.model import load_routes
    from runtime.project import load_project

    declared = load_project(settings_of(project=project).project)
    if declared.router.fitted is not None:
        fitted, _ = load_routes(declared.root / declared.router.fitted)
        rows = [(route_name(route), len(texts), fitted.threshold, "score") for route, texts in zip(fitted.utterances.routes, fitted.utterances.texts, strict=True)]
        report = fitted.report.as_json()
    else:
        rows = [(route_name(route), len(texts), declared.adapters[route[0]].threshold, "cosine") for route, texts in declared_routes(declared.adapters).items()]
        report = None
    if as_json:
        typer.echo(json.dumps({"routes": [dict(zip(("route", "utterances", "threshold", "of"), row, strict=True)) for row in rows], "report": report}))
        return
    table = Table("route", "utterances", "threshold", "of")
    for name, count, threshold, of in rows:
        table.add_row(name, str(count), f"{threshold:.4g}", of)
    Console().print(table)
    if report:
        _print_report(report)


def fit(
    train: Rows = None,
    validation: Rows = None,
    out: Annotated[Path, typer.Option("--out", help="The folder that `[router] fitted` names.")] = Path("router"),
    epochs: Annotated[int, typer.Option("--epochs", min=0, help="Passes over --train that teach the encoder; 0 leaves it as it is. Five take a minute or two per thousand rows on two cores.")] = 0,
    encoder: Annotated[str | None, typer.Option("--encoder", help="With --epochs: a folder, or a name on the hub, of an encoder such as DistilBERT; MiniLM when unset.")] = None,
    false_rate: Annotated[float, typer.Option("--false-rate", min=0, max=0.5, help="Share of what is in scope that may be held for out of scope.")] = 0.02,
    seed: Annotated[int, typer.Option("--seed", help="Of the encoder's training.")] = 0,
    as_json: AsJson = False,
    project: Project = None,
) -> None:
    """Fit routes to labelled requests, and their threshold to rows that they were not made of.

    Without --train the declared utterances stay the routes, and their threshold alone is fitted. Without --validation a tenth of --train is held out.
    The report is cross-fitted: each half of the validation rows is judged by what the other half gives.

    Example: loom routes fit --train requests.jsonl --out router
    """
    from inference.routing.decision import declared_routes
    from inference.routing.fit import split
    from inference.routing.make import Tuning, make_routes
    from runtime.errors import SettingsError
    from runtime.project import load_project

    if train is None and validation is None:
        raise SettingsError("nothing to fit to: name --train, --validation, or both")
    if train is None and epochs:
        raise SettingsError("--epochs teach the encoder by the rows of --train: name a file of them")
    if encoder and not epochs:
        raise SettingsError("--encoder is taught by --epochs: say how many, five are a start")
    declared = load_project(settings_of(project=project).project)
    known, held_out = ([] if file is None else _labelled(file, declared.adapters) for file in (train, validation))
    if validation is None:
        known, held_out = split(known)
    with _bar() as hear:
        fitted = make_routes(declared_routes(declared.adapters), known, held_out, out, Tuning(epochs, encoder, seed) if epochs else None, false_rate, declared.router.margin, hear)
    report = fitted.report.as_json()
    if as_json:
        typer.echo(json.dumps({"out": str(out), "threshold": fitted.threshold, "report": report}))
        return
    typer.echo(f'{out} written: {len(fitted.utterances.routes)} routes, threshold {fitted.threshold:.4g}. [router] fitted = "{out}" in loom.toml takes them, without a restart.')
    _print_report(report)


def explain(text: Annotated[str, typer.Argument(help="A message.")], as_json: AsJson = False, project: Project = None) -> None:
    """Show what a message is for, and why: clauses, scores, margins, the nearest utterances.

    Example: loom routes explain "can you reset my password?"
    """
    from dataclasses import asdict

    from inference.routing.router import routes_of
    from runtime.project import load_project

    decision = routes_of(load_project(settings_of(project=project).project)).decide(text)
    if as_json:
        typer.echo(json.dumps(asdict(decision)))
        return
    typer.echo(decision.status)
    for intent in decision.intents:
        margin = "" if intent.margin is None else f"margin {intent.margin:.3f}, "
        why = "sees every message" if intent.always else f"score {intent.score:.3f}, {margin}nearest {intent.nearest!r}"
        typer.echo(f"  {intent.adapter}: {intent.text!r} ({why})")


def _labelled(file: Path, adapters: Collection[str]) -> list[Labelled]:
    from inference.routing.fit import labelled
    from loom.bench.scores import load_rows
    from runtime.errors import SettingsError

    rows = labelled(load_rows(file))
    if strange := next((name for row in rows for name, _ in row.routes if name not in adapters), None):
        raise SettingsError(f"{file}: {strange!r} is no adapter that is declared: one of {', '.join(adapters)}")
    return rows


@contextlib.contextmanager
def _bar() -> Iterator[Hear]:
    """Shows how far the training of an encoder is."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("teaching the encoder", total=None, visible=False)

        def hear(step: int, steps: int, loss: float) -> None:
            progress.update(task, completed=step, total=steps, visible=True, description=f"teaching the encoder, loss {loss:.3f}")

        yield hear


def _print_report(report: dict[str, Any]) -> None:
    for name, value in report.items():
        if value is not None:
            typer.echo(f"  {name.replace('_', ' ')}: {value if isinstance(value, int) else f'{value:.3f}'}")
