"""The producer's side: publishing documents and labels, asking over Kafka, reading results back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import time
import uuid
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Self

import asyncpg
from aiokafka import AIOKafkaConsumer

from loom.sources import Source
from runtime.cloudevents import headers
from runtime.errors import InvalidInput
from runtime.follower import Follower, read_whole
from runtime.ids import canonical_json
from runtime.kafka import MAX_MESSAGE_BYTES, Record, consumer, partitions_of, producer
from runtime.objects import Objects
from runtime.places import meant, places_of, read_at
from runtime.project import Project
from runtime.sealing import PostgresKeys, seal
from schemas.codec import RECORDS, Codec, InvalidRecord
from schemas.events import AdapterCommand, AdapterEvent, Document, Event, Feedback, FeedbackVerdict, Label, Request, RequestCompleted, Result, TrainingRun
from schemas.topics import ADAPTER_COMMANDS, ADAPTERS, COMPLETED, DOCUMENTS, FEEDBACK, LABELS, REQUESTS, TRAINING_RUNS, result_topic
from streams.context import user_owner
from trainers.fleet import OPEN, Fleet

INLINE_BYTES = MAX_MESSAGE_BYTES // 2


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back for one request, read from the result topics."""

    completed: RequestCompleted
    results: tuple[tuple[str, Result], ...]


@dataclass(frozen=True, slots=True)
class Opinion:
    """What a user says of an answer: `output` is the right one where the verdict is that it was corrected, `rating` is 0 to 1."""

    request_id: str
    result: str | None
    verdict: FeedbackVerdict
    output: Any = None
    rating: float | None = None


class Client:
    """A connection to one system."""

    def __init__(self, project: Project, broker: str, objects: Objects, prefix: str = "", codec: Codec | None = None) -> None:
        self.project, self._broker, self._objects, self._prefix = project, broker, objects, prefix
        self._codec = codec or Codec()
        self._producer = producer(broker)

    async def __aenter__(self) -> Self:
        await self._producer.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._producer.stop()

    async def publish(self, documents: Iterable[Source], source: str = "files") -> AsyncIterator[str]:
        """Publishes every document, when it was changed as its revision, so that the same tree twice changes nothing; yields doc ids."""
        for one in documents:
            content = await asyncio.to_thread(one.read)
            inline = len(content.data) <= INLINE_BYTES
            check = None if inline else await self._objects.put(f"inbox/{hashlib.sha256(content.data).hexdigest()}", content.data)
            document = Document(
                doc_id=one.doc_id, revision=content.revision, media_type=content.media_type, source=source, title=None, content=content.data if inline else None, claim_check=check,
            )  # fmt: skip
            await self._send(DOCUMENTS.name, one.doc_id, one.doc_id, document)
            yield one.doc_id

    async def withdraw(self, doc_id: str, source: str = "files") -> None:
        """Publishes the deletion of a document."""
        await self._send(DOCUMENTS.name, doc_id, doc_id, Document(doc_id=doc_id, revision=time.time_ns(), media_type="", source=source, deleted=True))

    async def publish_labels(self, labels: Iterable[Label]) -> int:
        """Publishes labels, each id once; how many."""
        unique = {label.example_id: label for label in labels}
        await asyncio.gather(*(self._send(LABELS.name, i, i, label) for i, label in unique.items()))
        return len(unique)

    async def say(self, pool: asyncpg.Pool, opinion: Opinion) -> Feedback:
        """Publishes an opinion on a result, what is corrected sealed under the key of who asked.

        Raises:
            InvalidInput: no such request or result is known or kept, or more than one could be meant.
        """
        at, results = await places_of(pool, opinion.request_id)
        result = meant(results, opinion.request_id, opinion.result, self._prefix)
        request = await read_at(self._broker, at) if at else None
        if request is None or result is None:
            raise InvalidInput(f"no result {opinion.result or ''} of request {opinion.request_id} is known: they are kept for days, and known a moment after they are written")
        feedback_id, sealed = uuid.uuid4().hex, None
        if opinion.verdict is FeedbackVerdict.CORRECTED:
            key = await PostgresKeys(pool).key(user_owner(self._codec.decode(Request, request.value)))
            sealed = seal(key, feedback_id + ":output", canonical_json(opinion.output))
        feedback = Feedback(feedback_id=feedback_id, request_id=opinion.request_id, result_id=result.record_id, verdict=opinion.verdict, output=sealed, rating=opinion.rating)
        await self._send(FEEDBACK.name, opinion.request_id, feedback_id, feedback)
        return feedback

    async def fleet(self) -> Fleet:
        """Registry and runs as they stand."""
        fleet = Fleet(self.project)

        def apply(record: Record) -> None:
            if record.topic == self._prefix + ADAPTERS.name:
                fleet.apply_adapter(self._codec.decode(AdapterEvent, record.value), record.timestamp_ms / 1000)
            else:
                fleet.apply_run(self._codec.decode(TrainingRun, record.value))

        await read_whole(self._broker, await partitions_of(self._broker, [self._prefix + topic.name for topic in (ADAPTERS, TRAINING_RUNS)]), apply)
        return fleet

    async def command(self, command: AdapterCommand, timeout_seconds: float = 30) -> AdapterEvent | TrainingRun:
        """Sends `command` to the coordinator and waits for its answer. Raises TimeoutError when none comes; the command stays on its topic."""
        async with self._listening(ADAPTERS.name, TRAINING_RUNS.name) as client:
            await self._send(ADAPTER_COMMANDS.name, command.adapter, command.command_id, command)
            async with asyncio.timeout(timeout_seconds):
                while True:
                    for partition, messages in (await client.getmany(timeout_ms=100)).items():
                        kind: type[AdapterEvent | TrainingRun] = AdapterEvent if partition.topic == self._prefix + ADAPTERS.name else TrainingRun
                        for message in messages:
                            with contextlib.suppress(InvalidRecord):
                                answer: AdapterEvent | TrainingRun = self._codec.decode(kind, message.value)
                                if answer.command_id == command.command_id:
                                    return answer

    async def watch(self, run_id: str) -> AsyncIterator[TrainingRun]:
        """The moments of a run, those that were and those to come, until its last word."""
        follower = Follower(self._broker, [self._prefix + TRAINING_RUNS.name])
        await follower.start()
        try:
            while True:
                for record in await follower.poll():
                    with contextlib.suppress(InvalidRecord):
                        moment = self._codec.decode(TrainingRun, record.value)
                        if moment.run_id == run_id:
                            yield moment
                            if moment.status not in OPEN:
                                return
        finally:
            await follower.stop()

    @asynccontextmanager
    async def _listening(self, *topics: str) -> AsyncIterator[AIOKafkaConsumer]:
        """A reader of what is written to `topics` from now on."""
        partitions = await partitions_of(self._broker, {self._prefix + topic for topic in topics})
        client = consumer(self._broker)
        try:
            await client.start()
            client.assign(partitions)
            await client.seek_to_end(*partitions)
            for partition in partitions:
                await client.position(partition)
            yield client
        finally:
            await client.stop()

    async def ask(self, text: str, context: dict[str, str], adapter_id: str | None = None, timeout_seconds: float = 60) -> Answered:
        """Sends a request and waits for its last word. Raises TimeoutError when none comes."""
        request_id = uuid.uuid4().hex
        async with self._listening(COMPLETED.name, *(result_topic(a.result).name for a in self.project.adapters.values())) as client:
            request = Request(request_id=request_id, conversation_id=request_id, text=text, context=context, tools=None, adapter_id=adapter_id, deadline_ms=None, served=None)
            await self._send(REQUESTS.name, request_id, request_id, request)
            return await asyncio.wait_for(self._await(client, request_id), timeout_seconds)

    async def _await(self, client: AIOKafkaConsumer, request_id: str) -> Answered:
        results: dict[str, tuple[str, Result]] = {}
        completed: RequestCompleted | None = None
        while completed is None or any(r.result_id not in results for r in completed.results):
            for partition, messages in (await client.getmany(timeout_ms=100)).items():
                for message in messages:
                    if partition.topic == self._prefix + COMPLETED.name:
                        word = self._codec.decode(RequestCompleted, message.value)
                        completed = word if word.request_id == request_id else completed
                    else:
                        result = self._codec.decode(Result, message.value)
                        if result.request_id == request_id:
                            results[result.result_id] = (partition.topic, result)
        return Answered(completed, tuple(sorted(results.values(), key=lambda pair: pair[1].intent_index)))

    async def _send(self, topic: str, key: str, event_id: str, event: Event) -> None:
        await self._producer.send_and_wait(self._prefix + topic, key=key.encode(), value=self._codec.encode(event), headers=list(headers(RECORDS[type(event)], event_id, "client", None)))
