"""What a stage is to the shells that run it: one topic in, records out, all of it a function of the record."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from functools import partial
from typing import Protocol

import stamina
import structlog

from runtime.database import DATABASE_DOWN
from runtime.dead_letters import dead_letter
from runtime.errors import InvalidInput, Transient
from runtime.kafka import MAX_MESSAGE_BYTES, Outgoing, Record
from runtime.metrics import DEPENDENCY_FAILURES, RECORDS
from schemas.codec import Codec, InvalidRecord
from schemas.registry import RegistryUnavailable

log = structlog.get_logger()
DEPENDENCY_DOWN = (Transient, RegistryUnavailable, *DATABASE_DOWN)
"""What is raised when the world fails and the work is sound: the same call may succeed later."""
FIRST_WAIT_SECONDS = 0.2


class Stage(Protocol):
    """A stage. `handle` may take its time: it runs outside of any transaction and is cancelled at revocation."""

    name: str
    topic: str

    async def handle(self, record: Record) -> Sequence[Outgoing]:
        """What to write because of `record`. Raises InvalidInput or InvalidRecord for the dead letters, Transient to be called again."""


async def run_stage(stage: Stage, record: Record, codec: Codec, prefix: str) -> Sequence[Outgoing]:
    """`stage`'s output for `record`: a dead letter for a bad one; waits, with jitter, as long as a dependency fails."""
    if record.target_stage not in (None, stage.name):
        return ()
    began = time.perf_counter()
    try:
        outgoing = await _until_made(stage, record)
    except (InvalidInput, InvalidRecord) as error:
        log.warning("record.parked", stage=stage.name, origin=record.origin, error=type(error).__name__)
        RECORDS.labels(stage.name, "parked").observe(time.perf_counter() - began)
        return [dead_letter(codec, prefix, stage.name, record, error)]
    RECORDS.labels(stage.name, "made").observe(time.perf_counter() - began)
    return outgoing


async def _until_made(stage: Stage, record: Record) -> Sequence[Outgoing]:
    try:
        return await _made(stage, record)  # outside of stamina, which costs as much as a small record
    except DEPENDENCY_DOWN as error:
        _note_transient(stage.name, error)
    await asyncio.sleep(random.uniform(0, FIRST_WAIT_SECONDS))
    async for attempt in stamina.retry_context(on=partial(_note_transient, stage.name), attempts=None, timeout=None, wait_initial=FIRST_WAIT_SECONDS, wait_max=10.0):
        with attempt:
            return await _made(stage, record)
    raise AssertionError("stamina ends only by a return or an error")


async def _made(stage: Stage, record: Record) -> Sequence[Outgoing]:
    outgoing = await stage.handle(record)
    if big := next((o for o in outgoing if len(o.value or b"") > 4 * MAX_MESSAGE_BYTES), None):
        raise InvalidInput(f"{stage.name} made a record of {len(big.value or b'')} bytes for {big.topic}: {4 * MAX_MESSAGE_BYTES} at most")
    return outgoing


def _note_transient(stage: str, error: Exception) -> bool:
    if isinstance(error, DEPENDENCY_DOWN):
        log.warning("dependency.failed", error=f"{type(error).__name__}: {error}")
        DEPENDENCY_FAILURES.labels(stage, type(error).__name__).inc()
        return True
    return False
