"""Forgetting a document or a user: the key is destroyed, what was made of the texts is deleted, every version that learned
from them is tainted and made anew without them; and the proof that it is so.

Each step may be done twice, so a command that died is given again.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import asyncpg
import confluent_kafka
import structlog
from aiokafka import TopicPartition
from confluent_kafka import KafkaException

from loom import sentences
from loom.client import Client
from loom.lineage import Lineage, Name, Provenance, provenance
from loom.sentences import Finding
from runtime.errors import IntegrityError, InvalidInput, KeyDestroyed, SettingsError, Transient
from runtime.follower import read_whole
from runtime.ids import digest
from runtime.kafka import Record, admin_client, committed_offsets, partitions_of
from runtime.objects import Objects
from runtime.sealing import Key, PostgresKeys, open_bytes, unseal
from runtime.settings import Settings
from schemas.codec import Codec
from schemas.events import AdapterAction, AdapterCommand, AdapterEvent, AdapterEventKind, Request, RunStatus, TrainingRun
from schemas.topics import ADAPTERS, BASE, CPT, DOCUMENTS, REQUESTS, TRAINING_RUNS
from streams.context import document_owner, user_owner
from trainers.fleet import OPEN

log = structlog.get_logger()
INTAKE_GROUP = "chunk"
"""The worker that reads `documents`."""
INTAKE_SECONDS, POLL_SECONDS = 60.0, 2.0
QUOTES = "DELETE FROM results WHERE EXISTS (SELECT FROM unnest($1::text[]) AS said WHERE position(said IN output) > 0) RETURNING 1"
ANSWERS = (
    "DELETE FROM results WHERE request_id = ANY($1) RETURNING 1",
    "DELETE FROM completions WHERE request_id = ANY($1) RETURNING 1",
    "DELETE FROM record_places WHERE request_id = ANY($1) RETURNING 1",
)


@dataclass(frozen=True, slots=True)
class Subject:
    """Whose texts are forgotten: the owner of their key, and the document where it is one."""

    owner: str
    doc_id: str | None = None

    @classmethod
    def document(cls, doc_id: str) -> Subject:
        return cls(document_owner(doc_id), doc_id)

    @classmethod
    def user(cls, user_id: str) -> Subject:
        return cls(f"user:{user_id}")


@dataclass(frozen=True, slots=True)
class Forgotten:
    """What was done, and what is left: the tainted versions that still serve, and where its sentences were found, if some were `searched`."""

    owner: str
    examples: int
    deleted_objects: int
    deleted_rows: int
    tainted: tuple[str, ...]
    cancelled_runs: tuple[str, ...]
    still_serving: tuple[str, ...]
    learned_live: tuple[str, ...]
    searched: int
    findings: tuple[Finding, ...]

    @property
    def is_done(self) -> bool:
        """Whether nothing that serves learned from it, and all that is found deletes itself."""
        return not self.still_serving and not self.learned_live and all(found.until for found in self.findings)


class Forgetting:
    """Works on one system."""

    def __init__(self, settings: Settings, client: Client, pool: asyncpg.Pool, codec: Codec) -> None:
        self._settings, self._client, self._pool, self._codec = settings, client, pool, codec
        self._broker, self._prefix = settings.broker or "", settings.prefix
        self._objects, self._keys = Objects(settings.objects_url), PostgresKeys(pool)

    async def forget(self, subject: Subject, texts: Iterable[str] = (), wait_seconds: float = 0.0) -> Forgotten:
        """Forgets; waits for so long until nothing tainted serves. `texts` are searched for beside what of it can still be read.

        Raises:
            SettingsError: nothing of it is known.
            InvalidInput: the coordinator refused.
            Transient: broker, store, database or coordinator do not answer.
        """
        known = await provenance(self._broker, self._codec, self._prefix)
        own = known.of_owner(subject.owner)
        requests = await self._requests(subject)
        await self._check(subject, bool(own or requests))
        said = sentences.sentences([*texts, *(request.text for request in requests), *await self._texts(subject, known)])
        inbox = await self._inbox(subject)
        await self._objects.delete(inbox)  # first: without the key nobody knows their names
        if subject.doc_id is not None:
            await self._withdraw(subject.doc_id)
        await self._keys.destroy(subject.owner)
        objects, rows = await self._purge(subject, requests, said)
        cancelled = await self._begin_anew(subject, own, known, await self._taint(subject, own))
        tainted = await self._taint(subject, own)  # and what a run published that ended meanwhile
        serving = await self._until_replaced(wait_seconds)
        live = await self._learned(own, live_only=True)
        findings = await self._search(subject, said) if said else []
        return Forgotten(subject.owner, len(own), len(inbox) + objects, rows, _names(tainted), tuple(cancelled), _names(serving), _names(live), len(said), tuple(findings))

    async def _check(self, subject: Subject, is_known: bool) -> None:
        there = is_known or await self._pool.fetchval("SELECT EXISTS (SELECT FROM keys WHERE owner = $1) OR EXISTS (SELECT FROM document_revisions WHERE doc_id = $2)", subject.owner, subject.doc_id)
        if not there:
            raise SettingsError(f"nothing of {subject.owner} is known: documents and users are named as they were published")

    async def _key(self, owner: str) -> Key | None:
        """The owner's key; None where it never had one, or it was destroyed."""
        if not await self._pool.fetchval("SELECT EXISTS (SELECT FROM keys WHERE owner = $1)", owner):
            return None
        try:
            return await self._keys.key(owner)
        except KeyDestroyed:
            return None

    async def _texts(self, subject: Subject, known: Provenance) -> list[str]:
        """What can still be read of a document's chunks."""
        key = await self._key(subject.owner)
        return [] if key is None else [unseal(key, chunk.chunk_id, chunk.text) for chunk in known.chunks.values() if chunk.doc_id == subject.doc_id and chunk.text]

    async def _requests(self, subject: Subject) -> list[Request]:
        """What a user asked, as long as it is kept."""
        found: list[Request] = []

        def keep(record: Record) -> None:
            request = self._codec.decode(Request, record.value)
            if user_owner(request) == subject.owner:
                found.append(request)

        if subject.doc_id is None:
            await read_whole(self._broker, await partitions_of(self._broker, [self._prefix + REQUESTS.name]), keep)
        return found

    async def _inbox(self, subject: Subject) -> list[str]:
        """Where `loom publish` laid the document's content, if it was large: under its digest, which its copies tell while they can be read."""
        key = await self._key(subject.owner)
        if key is None or subject.doc_id is None:
            return []
        names = []
        for name in await self._objects.names(_copies(subject.doc_id)):
            sealed = await self._objects.get(name)
            try:
                content = open_bytes(key, f"{subject.doc_id}@{name.rsplit('/', 1)[1]}", sealed[:12], sealed[12:])
            except IntegrityError:
                continue  # damaged: nobody can read it
            names.append(f"inbox/{hashlib.sha256(content).hexdigest()}")
        return names

    async def _withdraw(self, doc_id: str) -> None:
        """Publishes the document's deletion where it is not deleted, and lets what stands before it on its partition of `documents` go once it was read: all of it is kept, sealed, in the store."""
        if await self._pool.fetchval("SELECT content_hash FROM document_revisions WHERE doc_id = $1", doc_id) is not None:
            await self._client.withdraw(doc_id, "forget")
        last: dict[TopicPartition, int] = {}

        def note(record: Record) -> None:
            if record.key == doc_id.encode():
                last[TopicPartition(record.topic, record.partition)] = record.offset

        await read_whole(self._broker, await partitions_of(self._broker, [self._prefix + DOCUMENTS.name]), note)
        end = time.monotonic() + INTAKE_SECONDS
        while last and time.monotonic() < end:
            read = await committed_offsets(self._broker, self._prefix + INTAKE_GROUP, list(last))
            if all((at := read[place]) is not None and at.offset > offset for place, offset in last.items()):
                await asyncio.to_thread(_delete_records, self._broker, last)
                return
            await asyncio.sleep(0.5)

    async def _purge(self, subject: Subject, requests: Sequence[Request], said: Sequence[bytes]) -> tuple[int, int]:
        """Deletes copies, parses, what a teacher said, what was answered to a user or quotes it; how many objects and rows."""
        ids = [request.request_id for request in requests]
        rows = len(await self._pool.fetch("DELETE FROM teacher_units WHERE key_owner = $1 RETURNING 1", subject.owner))
        rows += len(await self._pool.fetch(QUOTES, [one.decode() for one in said]))
        for sql in ANSWERS:
            rows += len(await self._pool.fetch(sql, ids))
        objects = []
        if subject.doc_id is not None:
            objects = [name for folder in (_copies(subject.doc_id), f"parses/{digest(subject.doc_id)}") for name in await self._objects.names(folder)]
        await self._objects.delete(objects)
        return len(objects), rows

    async def _taint(self, subject: Subject, own: frozenset[str]) -> list[Name]:
        """Taints every version that learned from it, and is not yet; all that are."""
        fleet, learned = await self._client.fleet(), await self._learned(own)
        for name, number in learned:
            if number not in fleet.states[name].tainted:
                await self._command(AdapterAction.TAINT, name, digest("taint", name, number, subject.owner), version=number, reason=f"learned from {subject.owner}, which was forgotten")
        return learned

    async def _learned(self, own: frozenset[str], *, live_only: bool = False) -> list[Name]:
        """The versions that learned from the examples `own`, by themselves or through others."""
        fleet = await self._client.fleet()
        learners = await Lineage(fleet, self._objects, Provenance({}, {})).learners(own)
        return [(one.adapter, one.version) for one in learners if one.live or not live_only]

    async def _begin_anew(self, subject: Subject, own: frozenset[str], known: Provenance, tainted: Sequence[Name]) -> list[str]:
        """Cancels the runs that have read what is forgotten now, and has what they were for done again; their ids."""
        fleet, (started, times) = await self._client.fleet(), await self._times()
        touched = {BASE if known.examples[one].adapter == CPT else known.examples[one].adapter for one in own} | {name for name, _ in tainted}
        destroyed = await self._pool.fetchval("SELECT destroyed_at FROM keys WHERE owner = $1", subject.owner)
        last = max([_milliseconds(destroyed), *(times[one] for one in tainted)])
        cancelled = []
        for run in [run for state in fleet.states.values() for run in state.runs.values() if run.status in OPEN]:
            has_read_it = run.adapter in touched or (BASE, run.base_epoch) in tainted
            if not has_read_it or started.get(run.run_id, last) >= last:
                continue
            if await self._is_granted(AdapterAction.CANCEL, run.adapter, digest("cancel", run.run_id), run_id=run.run_id, reason="it has read what is forgotten now"):
                cancelled.append(run.run_id)
                if (BASE, run.base_epoch) not in tainted and not fleet.states[run.adapter].is_to_replace(fleet.serving(run.adapter)):  # else the coordinator makes another by itself
                    await self._is_granted(AdapterAction.TRAIN, run.adapter, digest("train", run.run_id))
        return cancelled

    async def _is_granted(self, action: AdapterAction, adapter: str, command_id: str, **fields: Any) -> bool:
        """Whether the coordinator did not refuse: a run may have ended meanwhile, another may be on its way."""
        try:
            await self._command(action, adapter, command_id, **fields)
        except InvalidInput as error:
            log.info("command.refused", action=action, adapter=adapter, reason=str(error))
            return False
        return True

    async def _times(self) -> tuple[dict[str, int], dict[Name, int]]:
        """When each run was started and each version tainted, in milliseconds of the broker's clock."""
        started: dict[str, int] = {}
        tainted: dict[Name, int] = {}

        def note(record: Record) -> None:
            if record.topic == self._prefix + TRAINING_RUNS.name:
                run = self._codec.decode(TrainingRun, record.value)
                if run.status is RunStatus.STARTED:
                    started[run.run_id] = record.timestamp_ms
            else:
                event = self._codec.decode(AdapterEvent, record.value)
                if event.kind is AdapterEventKind.TAINT and event.version:
                    tainted.setdefault((event.adapter, event.version.version), record.timestamp_ms)

        await read_whole(self._broker, await partitions_of(self._broker, [self._prefix + topic.name for topic in (TRAINING_RUNS, ADAPTERS)]), note)
        return started, tainted

    async def _until_replaced(self, wait_seconds: float) -> list[Name]:
        """Waits for so long until nothing tainted serves; what still does."""
        end = time.monotonic() + wait_seconds
        while True:
            fleet = await self._client.fleet()
            serving = [(name, at) for name in fleet.states if (at := fleet.serving(name)) in fleet.states[name].tainted]
            if not serving or time.monotonic() >= end:
                return serving
            await asyncio.sleep(POLL_SECONDS)

    async def _search(self, subject: Subject, said: Sequence[bytes]) -> list[Finding]:
        """Where sentences are; what another document says is not its."""

        def counts(record: Record) -> bool:
            if record.topic != self._prefix + DOCUMENTS.name or subject.doc_id is None:
                return True
            return record.key == subject.doc_id.encode()

        data = self._settings.data
        searched = [data / "kafka", data / "postgres", data / "objects"]
        files = await asyncio.to_thread(sentences.in_files, data, searched, said)
        return [*await sentences.in_topics(self._broker, self._prefix, said, counts), *await sentences.in_objects(self._objects, said), *await sentences.in_tables(self._pool, said), *files]

    async def _command(self, action: AdapterAction, adapter: str, command_id: str, **fields: Any) -> None:
        try:
            answer = await self._client.command(AdapterCommand(command_id=command_id, adapter=adapter, action=action, seen_sequence=0, **fields))
        except TimeoutError:
            raise Transient("the coordinator does not answer: when it is up, give the same command again") from None
        if isinstance(answer, AdapterEvent) and answer.kind is AdapterEventKind.REFUSAL:
            raise InvalidInput(answer.reason or "refused")


def _copies(doc_id: str) -> str:
    return f"documents/{digest(doc_id)}"


def _names(found: Iterable[Name]) -> tuple[str, ...]:
    return tuple(f"{name}@{number}" for name, number in found)


def _milliseconds(at: datetime | None) -> int:
    return int(at.timestamp() * 1000) if at else 0


def _delete_records(broker: str, last: dict[TopicPartition, int]) -> None:
    """Deletes the records up to and with `last`. Raises Transient where the broker does not."""
    admin = admin_client(broker)  # what it promised never comes when it is gone
    asked = admin.delete_records([confluent_kafka.TopicPartition(place.topic, place.partition, offset + 1) for place, offset in last.items()])
    try:
        for done in asked.values():
            done.result(30)
    except KafkaException as error:
        raise Transient(f"what was read of `documents` can't be deleted: {error.args[0].str()}") from error
