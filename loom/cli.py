"""The command `loom`."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable

import typer

from loom.commands import adapters, bench, datasets, declared, dlq, exchange, forget, keys, plan, routes, runs, state, system


def _group(summary: str | None = None, alone: Callable[..., None] | None = None, **commands: Callable[..., None]) -> typer.Typer:
    """A group of commands under one name; without one of them it does what `alone` does, or shows its help."""
    group = typer.Typer(no_args_is_help=alone is None, rich_markup_mode=None, help=summary or inspect.getdoc(alone))
    if alone:
        group.callback(invoke_without_command=True)(alone)
    for name, command in commands.items():
        group.command(name)(command)
    return group


app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode=None, help="loraloom: documents in, a fleet of fresh LoRA adapters out, answers back.")
for command in (
    system.up, system.demo, system.worker, exchange.publish, exchange.label, exchange.ask, exchange.feedback, datasets.snapshot, datasets.diff, datasets.lineage, datasets.replay, forget.forget, state.status, state.doctor, declared.contract, declared.init, keys.keys, plan.plan,
):  # fmt: skip
    app.command()(command)
app.add_typer(_group(alone=adapters.adapters, show=adapters.show, promote=adapters.promote, rollback=adapters.rollback, retire=adapters.retire, diff=adapters.diff, push=adapters.push), name="adapters")
app.add_typer(_group(alone=routes.routes, fit=routes.fit, explain=routes.explain), name="routes")
app.add_typer(_group(alone=runs.runs, start=runs.start, cancel=runs.cancel, watch=runs.watch), name="runs")
app.add_typer(_group("Benchmarks.", quality=bench.quality, router=bench.router, dedup=bench.dedup, parse=bench.parse, streams=bench.streams, train=bench.train, pipeline=bench.pipeline, inference=bench.inference, swap=bench.swap, share=bench.share), name="bench")
app.add_typer(_group("The topic catalogue.", apply=declared.apply), name="topics")
app.add_typer(_group("Records that could not be processed.", list=dlq.list_, show=dlq.show), name="dlq")


def main() -> None:
    """Entry point: errors of ours are one clear line, and exit code 2."""
    from runtime.errors import LoomError

    try:
        app()
    except LoomError as error:
        typer.echo(f"loom: {error}", err=True)
        sys.exit(2)
