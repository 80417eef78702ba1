"""Who owns a question: the first who asks, until its chunk was withdrawn."""

from __future__ import annotations

import asyncio
import secrets

import asyncpg
import pytest

from loom.embedded.postgres import EmbeddedPostgres
from runtime.database import connect
from streams.questions import Claim, QuestionClaims

ROUNDS, QUESTIONS = 60, 6


async def chunk(pool: asyncpg.Pool, withdrawn: bool) -> str:
    chunk_id = secrets.token_hex(16)
    await pool.execute(
        "INSERT INTO document_chunks (doc_id, chunk_id, ordinal, content_hash, judged_by, withdrawn_by) VALUES ($1, $2, 0, 'h', 'r', $3)",
        f"doc-{chunk_id}", chunk_id, "r" if withdrawn else None,
    )  # fmt: skip
    return chunk_id


def claims(chunk_id: str, questions: list[bytes]) -> list[Claim]:
    return [Claim(question, secrets.token_hex(16), chunk_id) for question in questions]


@pytest.mark.asyncio
async def test_the_first_who_asks_owns_a_question_until_its_chunk_leaves(postgres: EmbeddedPostgres) -> None:
    pool = await connect(postgres.url, size=2)
    store = QuestionClaims(pool)
    (question,) = questions = [secrets.token_bytes(16)]
    first, second, third = [claims(await chunk(pool, withdrawn=False), questions) for _ in range(3)]
    assert [await store.claim(made) for made in (first, second, first)] == [{question: first[0].example_id}] * 3
    await store.give_back(first[0].chunk_id)
    assert await store.claim(second) == {question: second[0].example_id}
    await pool.execute("UPDATE document_chunks SET withdrawn_by = 'r' WHERE chunk_id = $1", second[0].chunk_id)
    assert await store.claim(third) == {question: third[0].example_id}
    assert await store.claim(second) == {question: third[0].example_id}
    await pool.close()


@pytest.mark.asyncio
async def test_a_chunk_that_was_withdrawn_and_is_late_takes_nothing_from_its_heir(postgres: EmbeddedPostgres) -> None:
    pool = await connect(postgres.url, size=4)
    store = QuestionClaims(pool)
    for _ in range(ROUNDS):
        questions = [secrets.token_bytes(16) for _ in range(QUESTIONS)]
        gone, heir = claims(await chunk(pool, withdrawn=True), questions), claims(await chunk(pool, withdrawn=False), questions)
        *_, owners = await asyncio.gather(*(store.claim([one]) for one in gone), store.claim(gone), store.claim(heir))
        assert owners == {claim.input_hash: claim.example_id for claim in heir}
    await pool.close()
