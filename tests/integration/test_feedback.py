"""What users say of answers becomes examples and pairs, joined to request and result; what can't be joined is parked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from loom.client import Client, Opinion
from loom.embedded.kafka import EmbeddedKafka
from loom.embedded.postgres import EmbeddedPostgres
from loom.projection import Projection
from runtime.errors import InvalidInput
from runtime.ids import canonical_json
from runtime.sealing import unseal
from schemas.codec import Codec
from schemas.events import DatasetRecord, DeadLetter, Feedback, FeedbackVerdict, Request, Result, ResultStatus
from streams import feedback as feedback_stage
from streams.teacher.by_distilabel import offline_teacher
from tests.support.streams import EXAMPLE, System, streams

CODEC = Codec()
WRONG = {"tool": "track_order", "order_id": "48210"}
RIGHT = {"tool": "restart_hub", "hub_name": "garden"}
TEXT = "could you give hub garden a fresh start after order 48210"


@asynccontextmanager
async def system(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, folder: Path) -> AsyncIterator[tuple[System, Client]]:
    """Streams, the projection, and a client; a request of a user with two results."""
    async with streams(kafka.address, postgres.url, folder, offline_teacher()) as running:
        await running.context.pool.execute("TRUNCATE projection_offsets")
        stop = asyncio.Event()
        projecting = asyncio.create_task(Projection(EXAMPLE, kafka.address, running.context.pool, running.prefix).run(stop))
        request = Request(request_id="r1", conversation_id="c1", text=TEXT, context={"user_id": "u7"})
        await running.send("requests", b"c1", CODEC.encode(request))
        for index, (topic, adapter, task, output) in enumerate([("sentiment", "classifier", "classify", "NEUTRAL"), ("tool-calls", "tool", "tool", WRONG)]):
            result = Result(
                result_id=f"r1-{index}", request_id="r1", task=task, adapter=adapter, version=1, engine_name=f"{adapter}@1-00000000", intent_index=index, intent_count=2,
                text=TEXT, output=canonical_json(output), status=ResultStatus.OK,
            )  # fmt: skip
            await running.send(f"results.{topic}", b"c1", CODEC.encode(result))
        async with Client(EXAMPLE, kafka.address, running.context.objects, running.prefix) as client:
            yield running, client
        stop.set()
        await projecting


async def say(client: Client, running: System, opinion: Opinion) -> Feedback:
    """Says it as soon as the projection knows the request."""
    for _ in range(240):
        try:
            return await client.say(running.context.pool, opinion)
        except InvalidInput:
            await asyncio.sleep(0.25)
    return await client.say(running.context.pool, opinion)


async def body(running: System, record: DatasetRecord) -> Any:
    assert record.body is not None
    key = await running.context.keys.key(record.body.key_id)
    return json.loads(unseal(key, record.example_id + ":body", record.body))


@pytest.mark.asyncio
async def test_a_correction_becomes_an_example_and_a_pair_under_its_users_key(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    async with system(kafka, postgres, tmp_path) as (running, client):
        said = await say(client, running, Opinion("r1", "results.tool-calls", FeedbackVerdict.CORRECTED, RIGHT))
        assert said.result_id == "r1-1"
        (record,) = await running.settled("datasets.tool", DatasetRecord)
        (pair,) = await running.settled("datasets.preferences", DatasetRecord)
        assert (record.is_correction, pair.is_correction) == (True, True)
        given = {"message": TEXT, "context": {"user_id": "u7"}}
        assert await body(running, record) == {"input": given, "output": {"calls": [RIGHT]}}
        assert await body(running, pair) == {"input": given, "output": {"calls": [RIGHT]}, "rejected": {"calls": [WRONG]}}
        assert record.body is not None
        assert record.body.key_id == "user:u7"
        accepted = await client.say(running.context.pool, Opinion("r1", "r1-0", FeedbackVerdict.ACCEPTED))
        (label,) = await running.settled("datasets.classifier", DatasetRecord)
        assert await body(running, label) == {"input": {"text": TEXT}, "output": {"label": "NEUTRAL"}}
        assert accepted.output is None
        assert await client.say(running.context.pool, Opinion("r1", "r1-0", FeedbackVerdict.RATED, rating=0.2))


@pytest.mark.asyncio
async def test_what_can_not_be_joined_or_learned_is_parked(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback_stage, "PATIENCE_SECONDS", 2.0)
    async with system(kafka, postgres, tmp_path) as (running, client):
        await say(client, running, Opinion("r1", "r1-1", FeedbackVerdict.CORRECTED, {"tool": "launch_rocket"}))
        for feedback_id, request_id, result_id in (("f1", "nobody", None), ("f2", "r1", None), ("f3", "r1", "r1-0")):
            said = Feedback(feedback_id=feedback_id, request_id=request_id, result_id=result_id, verdict=FeedbackVerdict.CORRECTED)
            await running.send("feedback", request_id.encode(), CODEC.encode(said))
        letters = await running.settled("dead-letters", DeadLetter)
        words = " | ".join(sorted(letter.message for letter in letters))
        assert len(letters) == 4
        for part in ("launch_rocket", "of request nobody is known", "has several results, name one: r1-0 (results.", "corrects and has no output"):
            assert part in words
        with pytest.raises(InvalidInput, match="several results"):
            await client.say(running.context.pool, Opinion("r1", None, FeedbackVerdict.ACCEPTED))
