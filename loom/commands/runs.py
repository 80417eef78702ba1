"""`loom runs`: the training runs, and what may be done about them."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

import typer

from loom.commands.adapters import Reason, send
from loom.commands.common import AsJson, Broker, Data, Database, Project, client_of, connected_settings, fleet_of, print_rows

COLUMNS = ["run_id", "adapter", "version", "trigger", "status", "step", "steps", "loss", "tokens_per_second", "seconds_left", "memory_bytes", "reason"]
EVERY = "SELECT run_id, adapter, version, trigger, status, step, steps, loss, tokens_per_second, seconds_left, memory_bytes, reason FROM runs ORDER BY recorded_at"
Run = Annotated[str, typer.Argument(metavar="RUN", help="Its id, or the start of it.")]


def runs(context: typer.Context, as_json: AsJson = False, project: Project = None, data: Data = None, database: Database = None) -> None:
    """List, start, watch and cancel training runs.

    Without a command it lists them.

    Example: loom runs
    """
    if context.invoked_subcommand is None:
        print_rows(EVERY, COLUMNS, as_json, project, data, database)


def start(adapter: Annotated[str, typer.Argument(help="An adapter, or base.")], as_json: AsJson = False, project: Project = None, data: Data = None, broker: Broker = None) -> None:
    """Train an adapter now, before what waits.

    On all examples that are there.

    Example: loom runs start tool
    """
    run = send("train", adapter, connected_settings(project=project, data=data, broker=broker))
    typer.echo(json.dumps({"run_id": run.run_id, "adapter": run.adapter, "version": run.version}) if as_json else f"run {run.run_id} will make {run.adapter}@{run.version}")  # type: ignore[union-attr]


def cancel(run: Run, reason: Reason = None, as_json: AsJson = False, project: Project = None, data: Data = None, broker: Broker = None) -> None:
    """Cancel a run that waits or is under way.

    Nothing of it is published.

    Example: loom runs cancel 3f9a
    """
    settings = connected_settings(project=project, data=data, broker=broker)
    found = _find(run, settings)
    send("cancel", found.adapter, settings, run_id=found.run_id, reason=reason)
    typer.echo(json.dumps({"run_id": found.run_id, "adapter": found.adapter, "status": "cancelled"}) if as_json else f"run {found.run_id} of {found.adapter} is cancelled")


def watch(run: Run, as_json: AsJson = False, project: Project = None, data: Data = None, broker: Broker = None) -> None:
    """Follow a run until its last word.

    Exit code 1 when it published nothing.

    Example: loom runs watch 3f9a
    """
    from schemas.events import RunStatus

    settings = connected_settings(project=project, data=data, broker=broker)
    found = _find(run, settings)

    async def follow() -> Any:
        async with client_of(settings) as client:
            async for moment in client.watch(found.run_id):
                _say(moment, as_json)
            return moment.status

    raise typer.Exit(0 if asyncio.run(follow()) is RunStatus.PUBLISHED else 1)


def _say(moment: Any, as_json: bool) -> None:
    row = {name: getattr(moment, name) for name in COLUMNS}
    if as_json:
        typer.echo(json.dumps(row))
        return
    words = [f"{moment.adapter}@{moment.version} {moment.status}"]
    if moment.step is not None:
        words.append(f"step {moment.step} of {moment.steps}, loss {moment.loss:.3f}, {moment.tokens_per_second:,.0f} tokens/s, {moment.seconds_left:.0f} s left, {moment.memory_bytes / 2**30:.1f} GiB")
    typer.echo(": ".join([*words, *([moment.reason] if moment.reason else [])]))


def _find(start_of_id: str, settings: Any) -> Any:
    """The one run whose id starts so. Raises SettingsError where none or several do."""
    from runtime.errors import SettingsError

    fleet = fleet_of(settings)
    found = [one for state in (fleet.base, *fleet.adapters.values()) for one in state.runs.values() if start_of_id and one.run_id.startswith(start_of_id)]
    if len(found) != 1:
        raise SettingsError(f"{len(found) or 'no'} runs start with {start_of_id!r}: `loom runs` lists them")
    return found[0]
