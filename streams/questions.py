"""Which example asked what first: the same question with another answer teaches nothing, and would stand on both sides of a split.

State: `question_claims`, by a keyed hash of adapter and input. A claim is idempotent by example; it falls to the next who
asks once its chunk was withdrawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import asyncpg

CLAIM = """
INSERT INTO question_claims (input_hash, example_id, chunk_id) SELECT * FROM unnest($1::bytea[], $2::bytea[], $3::bytea[])
ON CONFLICT (input_hash) DO UPDATE SET (example_id, chunk_id) = (
    SELECT CASE WHEN free THEN excluded.example_id ELSE question_claims.example_id END, CASE WHEN free THEN excluded.chunk_id ELSE question_claims.chunk_id END
    FROM (SELECT EXISTS (SELECT 1 FROM document_chunks c WHERE c.chunk_id = encode(question_claims.chunk_id, 'hex') AND c.withdrawn_by IS NOT NULL) AS free)
) RETURNING input_hash, example_id
"""
"""One statement: between two, a chunk that was withdrawn and is late could claim what its heir asks for."""


@dataclass(frozen=True, slots=True)
class Claim:
    """Of the question with this hash, by an example of a chunk."""

    input_hash: bytes
    example_id: str
    chunk_id: str


class QuestionClaims:
    """The claims of all workers."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool

    async def claim(self, claims: Sequence[Claim]) -> dict[bytes, str]:
        """The example that owns each question, by its hash; the first of equal `claims` where nobody did."""
        first = {claim.input_hash: claim for claim in reversed(claims)}
        wanted = [first[h] for h in sorted(first)]  # in one order everywhere: two workers never wait for each other
        if not wanted:
            return {}
        columns = zip(*((claim.input_hash, bytes.fromhex(claim.example_id), bytes.fromhex(claim.chunk_id)) for claim in wanted), strict=True)
        return {row["input_hash"]: row["example_id"].hex() for row in await self._pool.fetch(CLAIM, *columns)}

    async def give_back(self, chunk_id: str) -> None:
        """Ends the claims of a chunk that was withdrawn."""
        await self._pool.execute("DELETE FROM question_claims WHERE chunk_id = $1", bytes.fromhex(chunk_id))
