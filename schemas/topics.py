"""The topic catalogue: fixed rows, and a dataset and a result topic for each declared adapter."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta

from schemas import events
from schemas.events import Event

DAYS = timedelta(days=7)
WEEKS = timedelta(weeks=4)
FOR_EVER: timedelta | None = None
CPT, PREFERENCES = "cpt", "preferences"
"""Datasets beside the adapters' own."""
BASE = "base"
"""What stands in the place of an adapter's name for versions and runs of the base itself."""

PARTITIONS = 6
"""Of a topic, where nothing else is said; what is ordered as a whole has one."""


@dataclass(frozen=True, slots=True)
class Topic:
    """A topic: which record it holds, what the key is, who writes and reads it, how long it keeps."""

    name: str
    record: type[Event]
    key: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]
    retention: timedelta | None
    partitions: int = PARTITIONS

    @property
    def retention_ms(self) -> int:
        """Kafka's `retention.ms`; -1 keeps for ever."""
        return -1 if self.retention is None else int(self.retention.total_seconds() * 1000)


DOCUMENTS = Topic("documents", events.Document, "doc_id", ("upstream",), ("intake",), DAYS)
LABELS = Topic("labels", events.Label, "example_id", ("upstream",), ("format",), DAYS)
REVISIONS = Topic("revisions", events.Revision, "doc_id", ("intake", "chunk"), ("chunk",), FOR_EVER)
CHUNKS = Topic("chunks", events.Chunk, "doc_id", ("chunk",), ("synth",), FOR_EVER)
EXAMPLES = Topic("examples", events.Example, "example_id", ("synth", "format"), ("format",), FOR_EVER)
TRAINING_RUNS = Topic("training-runs", events.TrainingRun, "run_id", ("coordinator", "trainer"), ("coordinator", "trainer", "projection"), FOR_EVER, partitions=1)
ADAPTERS = Topic("adapters", events.AdapterEvent, "adapter", ("coordinator", "trainer", "inference"), ("coordinator", "inference", "projection"), FOR_EVER, partitions=1)
ADAPTER_COMMANDS = Topic("adapter-commands", events.AdapterCommand, "adapter", ("operator",), ("coordinator",), DAYS, partitions=1)
REQUESTS = Topic("requests", events.Request, "conversation_id", ("upstream", "inference"), ("inference", "projection"), DAYS)
COMPLETED = Topic("results.completed", events.RequestCompleted, "conversation_id", ("inference",), ("upstream", "projection"), DAYS)
SHADOWS = Topic("shadows", events.Result, "conversation_id", ("inference",), ("coordinator",), DAYS)
FEEDBACK = Topic("feedback", events.Feedback, "request_id", ("upstream",), ("format",), FOR_EVER)
DEAD_LETTERS = Topic("dead-letters", events.DeadLetter, "original key", ("every stage",), ("operator", "projection"), WEEKS)

FIXED = (DOCUMENTS, LABELS, REVISIONS, CHUNKS, EXAMPLES, TRAINING_RUNS, ADAPTERS, ADAPTER_COMMANDS, REQUESTS, COMPLETED, SHADOWS, FEEDBACK, DEAD_LETTERS)


def dataset_topic(name: str) -> Topic:
    """The topic of the training records of adapter `name`, or of CPT or PREFERENCES."""
    return Topic(f"datasets.{name}", events.DatasetRecord, "example_id", ("format",), ("coordinator", "trainer"), FOR_EVER)


def result_topic(name: str) -> Topic:
    """The result topic `results.<name>`."""
    return Topic(f"results.{name}", events.Result, "conversation_id", ("inference",), ("upstream", "projection"), DAYS)


def catalogue(adapters: Iterable[str], results: Iterable[str], partitions: int = PARTITIONS) -> dict[str, Topic]:
    """Every topic by name, for declared adapters and the result topics that they name; `partitions` of all but those that have one."""
    datasets = dict.fromkeys([CPT, PREFERENCES, *adapters])
    topics = [*FIXED, *map(dataset_topic, datasets), *map(result_topic, dict.fromkeys(results))]
    return {topic.name: topic if topic.partitions == 1 else replace(topic, partitions=partitions) for topic in topics}
