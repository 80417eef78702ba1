"""Datasets made once more, from what is kept for ever, into topics of their own; equal byte for byte where nothing of loraloom or of the project has changed.

Text for pre-training comes from the sealed copies: cut again (or as it was cut by the same code, `streams.parses`), judged as `chunks` say.
What teachers and upstreams wrote comes from `examples`. Nothing is decided anew and nobody is asked. A process for each core takes
partition after partition, reads it to its end and holds it in memory, encoded and sealed. The writers have names of their own and no
group: no worker is fenced.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from typing import TypeVar

from aiokafka import TopicPartition

from loom import partition_replay
from loom.partition_replay import COUNTS, NOTHING, Digest
from loom.processes import broker_of
from runtime.errors import LoomError, SettingsError
from runtime.kafka import apply_topics, partitions_of
from runtime.logs import configure_logs
from runtime.project import load_project
from runtime.settings import Settings
from schemas.topics import CHUNKS, CPT, EXAMPLES, PREFERENCES, dataset_topic

NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
PHASES = ("documents", "examples", "comparing")
Progress = Callable[[str, int, int], None]
T = TypeVar("T")


class ReplayEnded(LoomError):
    """A process of the replay died."""


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """A dataset as it is live and as it was made again: live records, and the sum of their hashes (`Digest`)."""

    dataset: str
    live: int
    live_sha256: str
    replayed: int
    replayed_sha256: str

    @property
    def same(self) -> bool:
        """Whether both are equal byte for byte."""
        return self.live_sha256 == self.replayed_sha256


@dataclass(frozen=True, slots=True)
class Report:
    """What a replay did. `counts`: documents, those whose copy is lost, live chunks, those that today's code cuts otherwise, examples formatted, refused, forgotten; `made_seconds`: until all was written, before both copies were read and compared."""

    prefix: str
    datasets: tuple[Rebuilt, ...]
    counts: dict[str, int]
    made_seconds: float
    seconds: float


async def replay_system(settings: Settings, name: str, progress: Progress) -> Report:
    """Replays the system that `settings` name into topics whose names begin with `replay-NAME.`, behind the system's own prefix.

    `progress` hears of a phase, how many partitions are done and of how many.

    Raises:
        SettingsError: a name that no topic can have, or that a replay had before.
        Transient: the broker or the database fails.
        ReplayEnded: a process of it died.
    """
    if not NAME.fullmatch(name):
        raise SettingsError(f"{name!r} can't be in a topic's name: letters, digits, - and _, up to 64")
    began = time.monotonic()
    project, broker, side = load_project(settings.project), broker_of(settings), f"{settings.prefix}replay-{name}."
    chunks, examples = [await partitions_of(broker, [settings.prefix + topic.name]) for topic in (CHUNKS, EXAMPLES)]
    topics = {dataset: dataset_topic(dataset).name for dataset in (CPT, PREFERENCES, *project.adapters)}
    at_once = min(len(examples), os.cpu_count() or 1)
    processes = ProcessPoolExecutor(at_once, get_context("spawn"), _start, (settings.log_level,))
    for _ in range(at_once):
        processes.submit(partition_replay.get_ready, settings)  # they start while topics are made
    try:
        if len(await apply_topics(broker, (project.topics[topic] for topic in topics.values()), side)) < len(topics):
            raise SettingsError(f"there are topics {side}datasets.* already: give the replay another name")
        written = await partitions_of(broker, [prefix + topic for prefix in (settings.prefix, side) for topic in topics.values()])
        counts: Counter[str] = Counter(dict.fromkeys(COUNTS, 0))
        for phase, work, places in ((PHASES[0], partition_replay.write_texts, chunks), (PHASES[1], partition_replay.write_examples, examples)):
            for made in await _all(processes, phase, progress, partial(work, settings, side), places):
                counts.update(made)
        written_at = time.monotonic()
        digests: dict[str, Digest] = {}
        for place, digest in zip(written, await _all(processes, PHASES[2], progress, partial(partition_replay.digest, settings, side), written), strict=True):
            digests[place.topic] = digests.get(place.topic, NOTHING) + digest
    except BrokenProcessPool as error:
        raise ReplayEnded("a process of the replay died, of too little memory perhaps: start it again under another name") from error
    finally:
        processes.shutdown(cancel_futures=True)
    pairs = {dataset: (digests[settings.prefix + topic], digests[side + topic]) for dataset, topic in topics.items()}
    rebuilt = tuple(Rebuilt(dataset, live.count, live.hexadecimal, again.count, again.hexadecimal) for dataset, (live, again) in pairs.items())
    return Report(side, rebuilt, dict(counts), written_at - began, time.monotonic() - began)


def _start(log_level: str) -> None:
    configure_logs(log_level)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # ends without a word; the command says it


async def _all(processes: ProcessPoolExecutor, phase: str, progress: Progress, work: Callable[[TopicPartition], T], places: Sequence[TopicPartition]) -> list[T]:
    """`work` on each of `places`, in their order."""
    done = 0
    progress(phase, done, len(places))

    async def one(place: TopicPartition) -> T:
        nonlocal done
        result = await asyncio.get_running_loop().run_in_executor(processes, work, place)
        done += 1
        progress(phase, done, len(places))
        return result

    return list(await asyncio.gather(*map(one, places)))
