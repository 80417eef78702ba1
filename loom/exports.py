"""Datasets out of the topics: as Parquet with a dataset card, as they were at any moment or for any version, and what differs between two."""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer

from runtime.errors import SettingsError
from runtime.follower import read_whole
from runtime.ids import canonical_json, digest
from runtime.kafka import consumer, partitions_of
from runtime.project import Project
from runtime.sealing import KeyStore
from schemas.codec import Codec
from schemas.events import DatasetRecord, Example, ExampleStatus, OffsetRange, Split, TrainingRun
from schemas.topics import CPT, EXAMPLES, PREFERENCES, TRAINING_RUNS, dataset_topic
from streams.context import UPSTREAM, USER
from trainers.card import NO_LICENCE, markdown_table
from trainers.snapshot import Row, open_rows, read_ranges

VERSION = re.compile(r"^([a-z][a-z0-9-]*)@([1-9]\d*)$")
NOW = "now"
COLUMNS = ("example_id", "group_id", "task", "input", "output", "rejected", "doc_id", "chunk_id", "teacher", "prompt_version", "judge_score", "licence")


@dataclass(frozen=True, slots=True)
class Moment:
    """A dataset at a moment: its name, and which records make it."""

    name: str
    at: str
    ranges: tuple[OffsetRange, ...]


@dataclass(frozen=True, slots=True)
class Change:
    """An example that is in one dataset and not in another."""

    example_id: str
    change: str
    why: str
    doc_id: str | None
    teacher: str | None


class Exporter:
    """Reads one system's topics."""

    def __init__(self, project: Project, broker: str, codec: Codec, prefix: str = "") -> None:
        self._project, self._broker, self._codec, self._prefix = project, broker, codec, prefix

    async def moment(self, name: str, at: str = NOW) -> Moment:
        """The dataset `name` at `at`: `now`, an RFC 3339 time, or a version such as `chat@3`; a version's name says its dataset.

        Raises:
            SettingsError: no such dataset or version, or a time that can't be read.
        """
        version = VERSION.match(at) or VERSION.match(name)
        if version:
            return Moment(version[1], version[0], await self._of_version(version[1], int(version[2])))
        if name not in (CPT, PREFERENCES, *self._project.adapters):
            raise SettingsError(f"no dataset {name!r}: one of {', '.join((CPT, PREFERENCES, *self._project.adapters))}")
        return Moment(name, at, await self._of_time(name, at))

    async def _of_version(self, adapter: str, version: int) -> tuple[OffsetRange, ...]:
        runs = await self._all(TRAINING_RUNS.name, TrainingRun)
        found = [run for run in runs if (run.adapter, run.version) == (adapter, version) and run.ranges]
        if not found:
            raise SettingsError(f"no run made {adapter}@{version}: `loom adapters` lists the versions")
        ranges: tuple[OffsetRange, ...] = found[-1].ranges
        return ranges

    async def _of_time(self, name: str, at: str) -> tuple[OffsetRange, ...]:
        partitions = await partitions_of(self._broker, [self._prefix + dataset_topic(name).name])
        client: AIOKafkaConsumer = consumer(self._broker)
        try:
            await client.start()
            client.assign(partitions)
            ends = await client.end_offsets(partitions)
            if at != NOW:
                found = await client.offsets_for_times(dict.fromkeys(partitions, _milliseconds(at)))
                ends = {p: found[p].offset if found[p] else end for p, end in ends.items()}
        finally:
            await client.stop()
        return tuple(OffsetRange(topic=p.topic, partition=p.partition, first=0, end=ends[p]) for p in partitions)

    async def examples(self, adapter: str) -> dict[str, Example]:
        """The last state of every example of `adapter`, by id."""
        return {e.example_id: e for e in await self._all(EXAMPLES.name, Example) if e.adapter == adapter}

    async def records(self, moment: Moment) -> list[DatasetRecord]:
        """The live records of a dataset, in the order of their ids."""
        if moment.name != PREFERENCES:
            return await read_ranges(self._broker, moment.ranges, self._codec, moment.name)
        every = [await read_ranges(self._broker, moment.ranges, self._codec, name) for name in self._project.adapters]
        return sorted((record for records in every for record in records), key=lambda r: r.example_id)

    async def differences(self, before: Moment, after: Moment) -> list[Change]:
        """Each example that came or went between two moments of one dataset, and why. Raises SettingsError for two datasets."""
        if before.name != after.name:
            raise SettingsError(f"{before.name} and {after.name} are two datasets: name two moments of one")
        old, new = {r.example_id for r in await self.records(before)}, {r.example_id for r in await self.records(after)}
        known = await self.examples(before.name)
        return [_change(i, known.get(i), came=i in new) for i in sorted(old ^ new)]

    async def _all(self, topic: str, kind: type[Any]) -> list[Any]:
        found: list[Any] = []
        await read_whole(self._broker, await partitions_of(self._broker, [self._prefix + topic]), lambda record: found.append(self._codec.decode(kind, record.value)))
        return found


def _milliseconds(at: str) -> int:
    try:
        time = datetime.fromisoformat(at)
    except ValueError:
        raise SettingsError(f"{at!r} is no moment: now, a time such as 2026-01-31T12:00:00+00:00, or a version such as chat@3") from None
    return int(time.timestamp() * 1000)


def _change(example_id: str, example: Example | None, *, came: bool) -> Change:
    if example is None:
        return Change(example_id, "came" if came else "went", "not on the topic of examples", None, None)
    origin = _ORIGINS.get(example.teacher, f"made by {example.teacher}")
    why = origin if came else example.reason or "withdrawn"
    return Change(example_id, "came" if came else "went", why, example.doc_id, example.teacher)


_ORIGINS = {UPSTREAM: "a label of upstream's", USER: "a user's word", "none": "text of a document"}


def table(rows: Sequence[Row], examples: Mapping[str, Example], task: str) -> list[dict[str, Any]]:
    """The columns of each row: what is learned, and where it comes from."""
    made = []
    for row in rows:
        example = examples.get(row.example_id)
        body = {part: canonical_json(row.body[part]) if part in row.body else None for part in ("input", "output", "rejected")}
        origin = {name: getattr(example, name, None) for name in ("doc_id", "chunk_id", "teacher", "prompt_version", "judge_score", "licence")}
        made.append({"example_id": row.example_id, "group_id": row.group_id, "task": task, **body, **origin})
    return made


def write(folder: Path, moment: Moment, rows: Sequence[Row], examples: Mapping[str, Example], forgotten: int, task: str) -> dict[str, Any]:
    """Writes a Parquet file a split, `manifest.json` and the card `README.md` to `folder`; the manifest.

    Raises:
        SettingsError: there is something in the folder already.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    if folder.exists() and any(folder.iterdir()):
        raise SettingsError(f"{folder} is not empty: name another with --out")
    folder.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([(name, pa.float64() if name == "judge_score" else pa.string()) for name in COLUMNS])
    files = {}
    for split in Split:
        own = table([row for row in rows if row.split is split], examples, task)
        if own:
            path = folder / f"{split.value}.parquet"
            pq.write_table(pa.Table.from_pylist(own, schema=schema), path)
            files[path.name] = {"split": split.value, "rows": len(own), "sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "bytes": path.stat().st_size}
    manifest = {
        "dataset": moment.name, "at": moment.at, "ranges": [asdict(r) for r in moment.ranges], "dataset_sha256": digest(*(row.example_id for row in rows)),
        "files": files, "forgotten": forgotten, "yields": yields(examples),
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    (folder / "README.md").write_text(card(manifest, [examples[row.example_id] for row in rows if row.example_id in examples]), encoding="utf-8")
    return manifest


def yields(examples: Mapping[str, Example]) -> dict[str, int]:
    """What became of every example that was made, by reason."""
    return dict(Counter(map(outcome, examples.values())).most_common())


def outcome(example: Example) -> str:
    """`kept`, or what became of it and why."""
    return "kept" if example.status is ExampleStatus.KEPT else f"{example.status.value}: {example.reason or 'no reason'}"


def card(manifest: Mapping[str, Any], examples: Sequence[Example]) -> str:
    """The dataset card, with the front matter that the `datasets` library reads. Source: Hugging Face Hub, dataset cards."""
    licences = Counter(e.licence or NO_LICENCE for e in examples)
    teachers, documents = Counter(e.teacher for e in examples), Counter(e.doc_id or ("words of users" if e.teacher == USER else "labels of upstream's") for e in examples)
    parts = "\n".join(f"      - split: {f['split']}\n        path: {name}" for name, f in manifest["files"].items())

    def rows_of(counts: Mapping[str, int], most: int = 50) -> str:
        more = {f"{len(counts) - most} more": ""} if len(counts) > most else {}
        return markdown_table("", "examples", {**dict(Counter(counts).most_common(most)), **more})

    return f"""---
pretty_name: {manifest["dataset"]}
configs:
  - config_name: default
    data_files:
{parts}
---

# {manifest["dataset"]}, {manifest["at"]}

{sum(f["rows"] for f in manifest["files"].values())} examples, made by loraloom. `input`, `output` and `rejected` are JSON; the other columns say where an example comes from.
Dataset hash (of the ids, in order): `{manifest["dataset_sha256"]}`. The offsets and the hashes of the files are in `manifest.json`.
{manifest["forgotten"]} examples are left out, since their text was forgotten.

## Licences, as given

{rows_of(licences)}

## Teachers

{rows_of(teachers)}

## Sources

{rows_of(documents)}

## What became of all that was made

{rows_of(manifest["yields"])}
"""


async def snapshot(exporter: Exporter, keys: KeyStore, moment: Moment, folder: Path, task: str) -> dict[str, Any]:
    """Writes a dataset to `folder`; its manifest. Raises SettingsError where it is empty, or the folder is not."""
    records, examples = await asyncio.gather(exporter.records(moment), exporter.examples(moment.name))
    rows = await open_rows(records, keys)
    if not rows:
        raise SettingsError(f"the dataset {moment.name} at {moment.at} is empty")
    return write(folder, moment, rows, examples, len(records) - len(rows), task)
