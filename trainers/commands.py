"""What the coordinator answers to a command: the record that carries it out, or a refusal that says why. Pure."""

from __future__ import annotations

from collections.abc import Callable

from schemas.events import AdapterAction, AdapterCommand, AdapterEvent, AdapterEventKind, RunStatus, RunTrigger, TrainingRun
from schemas.topics import BASE
from trainers.fleet import OPEN, AdapterState, Fleet


class _Refusal(Exception):
    """Why a command is not carried out."""


def answer(fleet: Fleet, command: AdapterCommand) -> AdapterEvent | TrainingRun:
    """The answer to `command`; it names the command, so that none is answered twice."""
    try:
        return _ACTIONS[command.action](fleet, command)
    except _Refusal as refusal:
        return AdapterEvent(adapter=command.adapter, kind=AdapterEventKind.REFUSAL, reason=str(refusal), command_id=command.command_id)


def _promote(fleet: Fleet, command: AdapterCommand) -> AdapterEvent:
    state = _aliased(fleet, command)
    return _switch(fleet, command, _servable(fleet, state, command.adapter, command.version or 0))


def _rollback(fleet: Fleet, command: AdapterCommand) -> AdapterEvent:
    state = _aliased(fleet, command)
    if state.candidate and command.version in (None, state.live):
        return _switch(fleet, command, state.live)
    before = state.before
    if not before:
        raise _Refusal(f"{command.adapter} has no version to roll back to: none that may serve was live before on this base epoch")
    target = command.version or before[-1]
    if target not in before:
        raise _Refusal(f"{command.adapter}@{target} was not live before {command.adapter}@{state.live} on this base epoch: promote it instead")
    return _switch(fleet, command, _servable(fleet, state, command.adapter, target))


def _retire(fleet: Fleet, command: AdapterCommand) -> AdapterEvent:
    state = _aliased(fleet, command)
    if not state.live:
        raise _Refusal(f"{command.adapter} has no live version")
    return _switch(fleet, command, 0)


def _train(fleet: Fleet, command: AdapterCommand) -> TrainingRun:
    state, name = _state(fleet, command), command.adapter
    if name == BASE and fleet.project.base.cpt is None:
        raise _Refusal("the base is not trained: loom.toml has no [base.cpt]")
    if fleet.epoch is None:
        raise _Refusal("there is no base epoch yet")
    if fleet.candidate is not None:
        raise _Refusal(f"base epoch {fleet.candidate.version} is on its way, and adapters are trained on it now")
    if name != BASE and fleet.epoch.epoch in fleet.base.tainted:
        raise _Refusal(f"base epoch {fleet.epoch.epoch} learned from what was forgotten: its adapters are trained on the next one, which `loom runs start base` makes")
    concerned = [state, *fleet.adapters.values()] if name == BASE else [state]
    if run := next((run for known in concerned for run in known.runs.values() if run.status in OPEN), None):
        raise _Refusal(f"a run of {run.adapter} is under way: wait, or cancel {run.run_id}")
    if not state.ends:
        raise _Refusal(f"{name} has no examples")
    return fleet.request(name, fleet.clean_epoch if name == BASE else fleet.epoch.epoch, RunTrigger.COMMAND, command.command_id)


def _cancel(fleet: Fleet, command: AdapterCommand) -> TrainingRun:
    run = _state(fleet, command).runs.get(command.run_id or "")
    if run is None:
        raise _Refusal(f"{command.adapter} has no run {command.run_id}")
    if run.status not in OPEN:
        raise _Refusal(f"the run has ended: {run.status}")
    return TrainingRun(
        run_id=run.run_id, adapter=run.adapter, base_epoch=run.base_epoch, status=RunStatus.CANCELLED, version=run.version, recipe_hash=run.recipe_hash,
        reason=command.reason or "cancelled by a command", trigger=run.trigger, command_id=command.command_id,
    )  # fmt: skip


def _taint(fleet: Fleet, command: AdapterCommand) -> AdapterEvent:
    version = _state(fleet, command).versions.get(command.version or 0)
    if version is None:
        raise _Refusal(f"{command.adapter} has no version {command.version}")
    return AdapterEvent(adapter=command.adapter, kind=AdapterEventKind.TAINT, version=version, reason=command.reason or "learned from what was forgotten", command_id=command.command_id)


def _unknown(fleet: Fleet, command: AdapterCommand) -> AdapterEvent:
    raise _Refusal("this coordinator does not know the action: is it older than the sender?")


def _state(fleet: Fleet, command: AdapterCommand) -> AdapterState:
    state = fleet.states.get(command.adapter)
    if state is None:
        raise _Refusal(f"no adapter {command.adapter} is declared: {', '.join(fleet.adapters)}")
    return state


def _aliased(fleet: Fleet, command: AdapterCommand) -> AdapterState:
    """The state of the command's adapter, which is as its sender saw it."""
    if command.adapter == BASE:
        raise _Refusal("base epochs switch by themselves, with all their adapters")
    state = _state(fleet, command)
    if command.seen_sequence < state.changed_at:
        raise _Refusal(f"{command.adapter} was changed meanwhile: its last change is {state.changed_at}, the sender saw {command.seen_sequence}")
    return state


def _servable(fleet: Fleet, state: AdapterState, name: str, number: int) -> int:
    version = state.versions.get(number)
    if version is None:
        raise _Refusal(f"{name} has no version {number}")
    if fleet.epoch is None or version.base_epoch != fleet.epoch.epoch:
        raise _Refusal(f"{name}@{number} belongs to base epoch {version.base_epoch}, which does not serve")
    if number in state.tainted:
        raise _Refusal(f"{name}@{number} is tainted: {state.tainted[number]}")
    if version not in state.published:
        raise _Refusal(f"{name}@{number} did not pass its gate: {version.verdict}")
    if number in state.refused:
        raise _Refusal(f"{name}@{number} was refused by a server: {state.refused[number]}")
    if number == state.live:
        raise _Refusal(f"{name}@{number} is live")
    return number


def _switch(fleet: Fleet, command: AdapterCommand, version: int) -> AdapterEvent:
    return fleet.alias_event(command.adapter, version, reason=command.reason or f"{command.action} by a command", command_id=command.command_id)


_ACTIONS: dict[AdapterAction, Callable[[Fleet, AdapterCommand], AdapterEvent | TrainingRun]] = {
    AdapterAction.PROMOTE: _promote, AdapterAction.ROLLBACK: _rollback, AdapterAction.RETIRE: _retire, AdapterAction.TRAIN: _train, AdapterAction.CANCEL: _cancel,
    AdapterAction.TAINT: _taint, AdapterAction.UNKNOWN: _unknown,
}  # fmt: skip
