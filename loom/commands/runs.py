"""`loom runs`: the training runs, and what may be done about them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from loom.commands.adapters import Reason, send
from loom.commands.common import AsJson, Broker, Data, Database, Project, client_of, connected_settings, fleet_of, print_rows

FIELDS = ["run_id", "adapter", "version", "trigger", "status", "step", "steps", "loss", "tokens_per_second", "seconds_left", "memory_bytes", "reason"]
EVERY = (
    "SELECT r.run_id, r.adapter, r.version, r.trigger, r.status, r.step, r.steps, r.loss, r.tokens_per_second, r.seconds_left, r.memory_bytes, "
    "coalesce(r.reason, 'a server refused it: ' || v.refused) AS reason FROM runs r LEFT JOIN adapter_versions v USING (run_id) ORDER BY r.recorded_at"
)
COLUMNS = ["run", "makes", "trigger", "status", "how it goes"]
ID_SHOWN = 8
Run = Annotated[str, typer.Argument(metavar="RUN", help="Its id, or the start of it.")]


def runs(context: typer.Context, as_json: AsJson = False, project: Project = None, data: Data = None, database: Database = None) -> None:
    """List, start, watch and cancel training runs.

    Without a command it lists them.

    Example: loom runs
    """
    if context.invoked_subcommand is None:
        print_rows(EVERY, COLUMNS, as_json, project, data, database, _cells)


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
    row = {name: getattr(moment, name) for name in FIELDS}
    typer.echo(json.dumps(row) if as_json else ": ".join([f"{moment.adapter}@{moment.version} {moment.status}", *_progress(row)]))


def _cells(row: Mapping[str, Any]) -> list[str]:
    """A run as a row of the table, which has COLUMNS."""
    return [row["run_id"][:ID_SHOWN], f"{row['adapter']}@{row['version']}", row["trigger"], row["status"], row["reason"] or ": ".join(_progress(row))]


def _progress(row: Mapping[str, Any]) -> list[str]:
    """How far a run is, and what was said of it last, where it is known."""
    words = []
    if row["step"] is not None and row["tokens_per_second"] is not None:
        left = "" if row["seconds_left"] is None else f", {row['seconds_left']:.0f} s left"
        words.append(f"step {row['step']} of {row['steps']}, loss {row['loss']:.3f}, {row['tokens_per_second']:,.0f} tokens/s{left}, {row['memory_bytes'] / 2**30:.1f} GiB")
    return words + [row["reason"]] * bool(row["reason"])


def _find(start_of_id: str, settings: Any) -> Any:
    """The one run whose id starts so. Raises SettingsError where none or several do."""
    from runtime.errors import SettingsError

    fleet = fleet_of(settings)
    found = [one for state in (fleet.base, *fleet.adapters.values()) for one in state.runs.values() if start_of_id and one.run_id.startswith(start_of_id)]
    if len(found) != 1:
        raise SettingsError(f"{len(found) or 'no'} runs start with {start_of_id!r}: `loom runs` lists them")
    return found[0]
