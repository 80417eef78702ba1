"""`loom adapters`: the registry, and what may be done to it."""

from __future__ import annotations

import asyncio
import json
import re
import uuid
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loom.commands.common import AsJson, Broker, Data, Database, Project, client_of, connected_settings, fleet_of, print_rows

if TYPE_CHECKING:
    from schemas.events import AdapterEvent, TrainingRun

Reason = Annotated[str | None, typer.Option("--reason", help="Why, kept with the change.")]
VERSION = re.compile(r"([a-z][a-z0-9-]*)(?:@([0-9]{1,9}))?")


def adapters(context: typer.Context, as_json: AsJson = False, project: Project = None, data: Data = None, database: Database = None) -> None:
    """Show, promote, roll back and compare adapter versions.

    Without a command it lists them: which one is live, which one is tried beside it and on how many conversations, and the gate's words.

    Example: loom adapters --json
    """
    if context.invoked_subcommand is not None:
        return
    sql = (
        "SELECT v.adapter, v.version, v.engine_name, coalesce(a.live_version = v.version, v.adapter = 'base' AND v.version = (SELECT max(epoch) FROM base_epochs), false) AS live, "
        "CASE WHEN a.candidate = v.version THEN (CASE WHEN a.shadow THEN 'shadows ' ELSE 'answers ' END) || round(a.share * 100) || ' %' END AS candidate, "
        "v.base_epoch, v.sha256, v.metrics, v.verdict, v.tainted, v.refused FROM adapter_versions v LEFT JOIN adapter_aliases a USING (adapter) ORDER BY 1, 2"
    )
    print_rows(sql, ["adapter", "version", "engine_name", "live", "candidate", "base_epoch", "verdict", "tainted", "refused"], as_json, project, data, database)


def show(version: Annotated[str, typer.Argument(metavar="ADAPTER@VERSION")], as_json: AsJson = False, project: Project = None, data: Data = None, broker: Broker = None) -> None:
    """Show all that is known of a version.

    Also of one that its gate rejected.

    Example: loom adapters show tool@7
    """
    from loom.versions import version_in

    name, number = version_of(version)
    fleet = fleet_of(connected_settings(project=project, data=data, broker=broker))
    found = version_in(fleet, name, number)
    state = fleet.states[name]
    row = asdict(found) | {"live": state.live == number, "candidate": state.candidate == number, "refused": state.refused.get(number), "tainted": state.tainted.get(number), "run": next((run.status for run in state.runs.values() if run.run_id == found.run_id), None)}
    if as_json:
        typer.echo(json.dumps(row))
        return
    for field, value in row.items():
        if field in ("files", "metrics"):
            typer.echo(field)
            for line in [f"{file['path']}  {file['size_bytes']:,} bytes  sha256 {file['sha256']}" for file in value] if field == "files" else [f"{metric}  {score:.4g}" for metric, score in sorted(value.items())]:
                typer.echo(f"  {line}")
        else:
            typer.echo(f"{field:16} {'-' if value is None else value}")


def promote(version: Annotated[str, typer.Argument(metavar="ADAPTER@VERSION")], reason: Reason = None, as_json: AsJson = False, project: Project = None, data: Data = None, broker: Broker = None) -> None:
    """Make a version live that passed its gate.

    A candidate too, before its trial has ended.

    Example: loom adapters promote tool@7
    """
    from runtime.errors import SettingsError

    name, number = version_of(version)
    if number is None:
        raise SettingsError(f"which version of {name}? Name it as {name}@7")
    _tell(send("promote", name, connected_settings(project=project, data=data, broker=broker), number, reason=reason), as_json)


def rollback(version: Annotated[str, typer.Argument(metavar="ADAPTER[@VERSION]")], reason: Reason = None, as_json: AsJson = False, project: Project = None, data: Data = None, broker: Broker = None) -> None:
    """Go back to the version that was live before.

    Or to an earlier one that was. While a candidate is tried, it ends that. What is rolled back does not become live again by itself; a newer version that passes its gate does.

    Example: loom adapters rollback tool --reason "it resets passwords of others"
    """
    name, number = version_of(version)
    _tell(send("rollback", name, connected_settings(project=project, data=data, broker=broker), number, reason=reason), as_json)


def retire(adapter: str, reason: Reason = None, as_json: AsJson = False, project: Project = None, data: Data = None, broker: Broker = None) -> None:
    """Take an adapter out of service.

    Nobody answers for it, and nothing trains it, until a version is promoted.

    Example: loom adapters retire ner
    """
    _tell(send("retire", adapter, connected_settings(project=project, data=data, broker=broker), reason=reason), as_json)


def push(
    version: Annotated[str, typer.Argument(metavar="ADAPTER@VERSION")], repo: Annotated[str, typer.Argument(metavar="OWNER/NAME", help="On the hub; made where it is not there.")],
    public: Annotated[bool, typer.Option("--public", help="A repository that is made is for all to see.")] = False,
    as_json: AsJson = False, project: Project = None, data: Data = None, broker: Broker = None,
) -> None:  # fmt: skip
    """Copy a version to a Hugging Face hub.

    Weights, configuration, card and manifest, as one commit; HF_TOKEN and HF_ENDPOINT say who you are, and which hub.

    Example: loom adapters push tool@7 acme/help-desk-tool
    """
    from loom.hub import push as copy_to
    from loom.versions import clean_version_in
    from runtime.objects import Objects

    name, number = version_of(version)
    settings = connected_settings(project=project, data=data, broker=broker)
    found = clean_version_in(fleet_of(settings), name, number, "handed on")
    address = asyncio.run(copy_to(found, Objects(settings.objects_url), repo, private=not public))
    typer.echo(json.dumps({"version": version, "commit": address}) if as_json else f"{version} is at {address}")


def diff(
    version: Annotated[str, typer.Argument(metavar="ADAPTER@VERSION")], other: Annotated[str, typer.Argument(metavar="ADAPTER@VERSION")],
    as_json: AsJson = False, project: Project = None, data: Data = None, broker: Broker = None, database: Database = None,
) -> None:  # fmt: skip
    """Show the answers that differ between two versions.

    Also of rejected ones. Both answer, here and now, what the first of them was judged by.

    Example: loom adapters diff tool@7 tool@6
    """
    from rich.console import Console

    from loom.versions import run_of
    from runtime.errors import SettingsError
    from trainers.compare import compare

    names = [version_of(text) for text in (version, other)]
    settings = connected_settings(project=project, data=data, broker=broker, database=database)

    fleet = fleet_of(settings)
    if names[0][0] not in fleet.adapters or names[0][0] != names[1][0]:
        raise SettingsError(f"{version} and {other} are no two versions of one adapter")
    ours, theirs = (asyncio.run(run_of(fleet, name, number, settings)) for name, number in names)
    with Console(stderr=True).status("answering"):
        made = compare((ours.spec, ours.version), (theirs.spec, theirs.version))
    if as_json:
        typer.echo(json.dumps({"versions": [version, other], **asdict(made)}))
        return
    better, worse = (sum(sign * (d.our_score - d.their_score) > 0 for d in made.differences) for sign in (1, -1))
    typer.echo(f"{made.metric} of {version} {made.scores[0]:.3f}, of {other} {made.scores[1]:.3f} on {made.held_out} held-out examples; {len(made.differences)} answers differ, {better} are better, {worse} worse")
    for d in made.differences:
        typer.echo(f"\n{'+' if d.our_score > d.their_score else '-' if d.our_score < d.their_score else ' '} {json.dumps(d.input, ensure_ascii=False)}")
        for name, said in (("right", d.wanted), (version, d.ours), (other, d.theirs)):
            typer.echo(f"    {name:12} {json.dumps(said, ensure_ascii=False)}")


def version_of(text: str) -> tuple[str, int | None]:
    """Adapter and version that `tool@7` names; None where it names an adapter alone. Raises SettingsError for another form."""
    from runtime.errors import SettingsError

    found = VERSION.fullmatch(text)
    if found is None:
        raise SettingsError(f"{text!r} names no version: write it as tool@7")
    return found[1], int(found[2]) if found[2] else None


def send(action: str, adapter: str, settings: Any, version: int | None = None, run_id: str | None = None, reason: str | None = None) -> AdapterEvent | TrainingRun:
    """The coordinator's answer to a command.

    Raises:
        InvalidInput: it refused.
        Transient: it did not answer.
    """
    from runtime.errors import InvalidInput, Transient
    from schemas.events import AdapterAction, AdapterCommand, AdapterEventKind

    async def run() -> AdapterEvent | TrainingRun:
        async with client_of(settings) as client:
            fleet = await client.fleet()
            seen = fleet.adapters[adapter].changed_at if adapter in fleet.adapters else 0
            wish = AdapterCommand(command_id=uuid.uuid4().hex, adapter=adapter, action=AdapterAction(action), version=version, seen_sequence=seen, run_id=run_id, reason=reason)
            try:
                answer: AdapterEvent | TrainingRun = await client.command(wish)
            except TimeoutError:
                raise Transient("the coordinator does not answer; it will carry the command out when it is up: see `loom status`") from None
            return answer

    answer = asyncio.run(run())
    if getattr(answer, "kind", None) is AdapterEventKind.REFUSAL:
        raise InvalidInput(answer.reason or "refused")
    return answer


def _tell(event: Any, as_json: bool) -> None:
    live = event.alias.live_version or None
    if as_json:
        typer.echo(json.dumps({"adapter": event.adapter, "live_version": live, "sequence": event.sequence, "reason": event.reason}))
    else:
        typer.echo(f"{event.adapter}@{live} is live" if live else f"{event.adapter} is retired")
