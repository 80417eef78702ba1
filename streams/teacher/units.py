"""What a teacher was asked, once ever: a unit is what was written for one adapter about one chunk, by one version of the prompt and one teacher.

State: `teacher_units`, each reply sealed with its document's key as soon as it is there.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

from runtime.ids import canonical_json, digest
from runtime.metrics import UNITS
from runtime.sealing import Key, open_bytes, seal_bytes
from streams.teacher.asks import Assignment, Row
from streams.teacher.teachers import Teacher

INSERT = """
INSERT INTO teacher_units (unit_id, chunk_id, adapter, task, version, teacher, item_count, key_owner, nonce, ciphertext, usd)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (unit_id) DO UPDATE
SET item_count = greatest(teacher_units.item_count, $7), nonce = $9, ciphertext = $10, usd = teacher_units.usd + $11 WHERE teacher_units.ciphertext IS NULL
"""
FAST = 1
"""Of zlib's levels; sealed words can't be compressed by the database."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit and, as it is known, how many examples it has."""

    chunk_id: str
    adapter: str
    task: str
    version: str
    teacher: str
    item_count: int = 0

    @property
    def unit_id(self) -> str:
        """A function of what was asked."""
        return digest("unit", self.chunk_id, self.adapter, self.version, self.teacher)

    def example_id(self, ordinal: int) -> str:
        """The id of one of its examples."""
        return digest("example", self.chunk_id, self.adapter, self.version, self.teacher, ordinal)


class Units:
    """The units of all workers, and the teacher that is asked for new ones."""

    def __init__(self, pool: asyncpg.Pool, teacher: Teacher) -> None:
        self._pool, self._teacher = pool, teacher

    async def rows(self, unit: Unit, assignment: Assignment, key: Key) -> tuple[list[Row], float]:
        """What the teacher wrote, now or before, and what it took in US dollars. Raises as `Teacher.ask` does."""
        row = await self._pool.fetchrow("SELECT nonce, ciphertext, usd FROM teacher_units WHERE unit_id = $1 AND ciphertext IS NOT NULL", unit.unit_id)
        if row is not None:
            UNITS.labels(unit.teacher, assignment.ask.name, "known").inc()
            return json.loads(zlib.decompress(open_bytes(key, unit.unit_id, row["nonce"], row["ciphertext"]))), row["usd"]
        reply = await self._teacher.ask(assignment)
        UNITS.labels(unit.teacher, assignment.ask.name, "asked").inc()
        nonce, ciphertext = seal_bytes(key, unit.unit_id, zlib.compress(canonical_json(reply.rows).encode(), FAST))
        count = len(assignment.ask.items(reply.rows, assignment))
        await self._pool.execute(
            INSERT, unit.unit_id, unit.chunk_id, unit.adapter, unit.task, unit.version, unit.teacher, count, key.key_id, nonce, ciphertext, reply.usage.usd,
        )  # fmt: skip
        return reply.rows, reply.usage.usd

    async def of(self, chunk_id: str) -> Sequence[Unit]:
        """All units of a chunk, whoever wrote them and by which prompt."""
        rows = await self._pool.fetch("SELECT chunk_id, adapter, task, version, teacher, item_count FROM teacher_units WHERE chunk_id = $1 ORDER BY unit_id", chunk_id)
        return [Unit(**row) for row in rows]
