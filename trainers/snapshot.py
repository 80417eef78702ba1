"""A dataset's snapshot: the records of fixed offset ranges, and the manifest that rebuilds it byte for byte."""

from __future__ import annotations

import contextlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer, TopicPartition

from runtime.artifacts import MANIFEST
from runtime.errors import KeyDestroyed
from runtime.ids import canonical_json, digest
from runtime.kafka import consumer
from runtime.project import Adapter
from runtime.sealing import KeyStore, unseal
from runtime.tasks.preferences import PREFERENCE
from runtime.tasks.samples import TaskSpec, render, render_pair
from schemas.codec import Codec, InvalidRecord
from schemas.events import DatasetRecord, OffsetRange, RecordStatus, Split
from schemas.topics import BASE, CPT

HELD_OUT_ROOM = 500
"""More than a run evaluates on (`trainers.fork.MAX_HELD_OUT`): some prompts turn out too long."""


@dataclass(frozen=True, slots=True)
class Row:
    """One live record of a snapshot, in plain; `is_pair` is a preference, `teacher_usd` what its teacher took, `is_correction` a user's word, `licence` that of its source as upstream gave it, `judge_score` what the judge made of it, 0 to 1."""

    example_id: str
    group_id: str
    split: Split
    body: Mapping[str, Any]
    is_pair: bool = False
    teacher_usd: float = 0.0
    is_correction: bool = False
    licence: str | None = None
    judge_score: float | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """All that decides a version: which records, their texts by one digest, every hash and seed that training depends on, what was declared.

    Sums depend on how many `threads` add them up, weights to the bit with them. By engine name: `parent` is the version that it goes on from; `live`, `best` and `first` are those that it was compared with.
    """

    adapter: str
    base_epoch: int
    base_sha256: str
    ranges: tuple[OffsetRange, ...]
    example_ids: tuple[str, ...]
    dataset_sha256: str
    declaration: Mapping[str, Any]
    parent: str | None
    live: str | None
    best: str | None
    first: str | None
    threads: int
    split_rule: str = "sha256('split', group_id) mod 10 = 0 is evaluation"

    def to_json(self) -> str:
        """Canonical JSON."""
        return canonical_json(asdict(self))


def dataset_sha256(rows: Sequence[Row]) -> str:
    """One digest of all ids and texts, in their order."""
    return digest(*(part for row in rows for part in (row.example_id, canonical_json(row.body))))


async def read_ranges(broker: str, ranges: Sequence[OffsetRange], codec: Codec, adapter: str) -> list[DatasetRecord]:
    """The last state of each example of `adapter` in `ranges`, read_committed, in the order of their ids; withdrawn ones are left out."""
    name = CPT if adapter == BASE else adapter
    ends = {TopicPartition(r.topic, r.partition): r.end for r in ranges if r.end > r.first}
    if not ends:
        return []
    client: AIOKafkaConsumer = consumer(broker)
    try:
        await client.start()
        client.assign(list(ends))
        for r in ranges:
            if r.end > r.first:
                client.seek(TopicPartition(r.topic, r.partition), r.first)
        last: dict[str, DatasetRecord] = {}
        while any([await client.position(p) < end for p, end in ends.items()]):
            for partition, messages in (await client.getmany(timeout_ms=200)).items():
                for message in messages:
                    if message.offset < ends[partition]:
                        with contextlib.suppress(InvalidRecord):  # foreign bytes are no example
                            record = codec.decode(DatasetRecord, message.value)
                            last[record.example_id] = record
        return [last[i] for i in sorted(last) if last[i].status is RecordStatus.LIVE and last[i].adapter == name]
    finally:
        await client.stop()


def example_ids(folder: Path) -> frozenset[str]:
    """The examples that the manifest of the version in `folder` names."""
    return frozenset(json.loads((folder / MANIFEST).read_text())["example_ids"])


def needed(adapter: Adapter, records: Sequence[DatasetRecord], anchors: AbstractSet[str] = frozenset()) -> list[DatasetRecord]:
    """Those of `records` that a run of `adapter` can use, in their order: corrections before others of each kind, and the held-out ones of `anchors`. A
    stream's dataset outgrows any run's memory."""
    recipe, dpo = adapter.recipe, adapter.dpo
    room = Counter({(Split.TRAIN, False): recipe.max_steps * recipe.batch_size, (Split.TRAIN, True): dpo.max_pairs if dpo else 0, (Split.EVALUATION, False): HELD_OUT_ROOM})
    kept = set()
    for record in sorted(records, key=lambda record: not record.is_correction):
        kind = record.split, record.task == PREFERENCE
        if room[kind] > 0:
            room[kind] -= 1
        elif record.split is not Split.EVALUATION or record.example_id not in anchors:
            continue
        kept.add(record.example_id)
    return [record for record in records if record.example_id in kept]


def trainable(spec: TaskSpec, rows: Sequence[Row]) -> list[Row]:
    """Those of `rows` that `spec` allows, in their order: a label, a tool or an argument may have been renamed since they were written."""
    kept = []
    for row in rows:
        with contextlib.suppress(ValueError):
            (render_pair if row.is_pair else render)(spec, row.body)
            kept.append(row)
    return kept


async def open_rows(records: Sequence[DatasetRecord], keys: KeyStore) -> list[Row]:
    """`records` in plain; those whose key was destroyed are left out."""
    rows = []
    for record in records:
        if record.body is None:
            continue
        try:
            key = await keys.key(record.body.key_id)
        except KeyDestroyed:
            continue
        body = json.loads(unseal(key, record.example_id + ":body", record.body))
        rows.append(Row(record.example_id, record.group_id, record.split, body, record.task == PREFERENCE, record.teacher_usd or 0.0, record.is_correction, record.licence, record.judge_score))
    return rows
