"""Which example asked what first: the same question with another answer teaches nothing, and would stand on both sides of a split.

State: `question_claims`, by a keyed hash of adapter and input. A claim is idempotent by example; it falls to the next who
asks once its chunk was withdrawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

GONE = """
DELETE FROM question_claims WHERE input_hash IN (
    SELECT own.input_hash FROM question_claims own JOIN document_chunks c USING (doc_id, chunk_id)
    WHERE own.input_hash = ANY($1::text[]) AND c.withdrawn_by IS NOT NULL ORDER BY 1 FOR UPDATE OF own)
"""
CLAIM = """
INSERT INTO question_claims (input_hash, example_id, doc_id, chunk_id) SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
ON CONFLICT (input_hash) DO UPDATE SET input_hash = excluded.input_hash RETURNING input_hash, example_id
"""


@dataclass(frozen=True, slots=True)
class Claim:
    """Of the question with this hash, by an example of a document's chunk."""

    input_hash: str
    example_id: str
    doc_id: str
    chunk_id: str


class QuestionClaims:
    """The claims of all workers."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def claim(self, claims: Sequence[Claim]) -> dict[str, str]:
        """The example that owns each question, by its hash; the first of equal `claims` where nobody did."""
        first = {claim.input_hash: claim for claim in reversed(claims)}
        wanted = [first[h] for h in sorted(first)]  # in one order everywhere: two workers never wait for each other
        await self._pool.execute(GONE, [claim.input_hash for claim in wanted])
        rows = await self._pool.fetch(CLAIM, *([getattr(claim, name) for claim in wanted] for name in ("input_hash", "example_id", "doc_id", "chunk_id")))
        return {row["input_hash"]: row["example_id"] for row in rows}

    async def give_back(self, example_ids: Sequence[str]) -> None:
        """Ends the claims of examples that are no more."""
        await self._pool.execute("DELETE FROM question_claims WHERE example_id = ANY($1::text[])", example_ids)
