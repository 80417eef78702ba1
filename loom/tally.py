"""Counts of what the topics hold."""

from __future__ import annotations

from collections import Counter
from typing import Any, Self

from loom.exports import outcome
from runtime.follower import Follower
from runtime.kafka import Record
from runtime.project import Project
from runtime.settings import Settings
from schemas.events import Chunk, ChunkStatus, DatasetRecord, DeadLetter, Example, RecordStatus
from schemas.registry import open_codec
from schemas.topics import CHUNKS, CPT, DEAD_LETTERS, EXAMPLES, PREFERENCES, dataset_topic


class Tally:
    """What the topics hold, by id, read_committed."""

    def __init__(self, project: Project, settings: Settings) -> None:
        assert settings.broker
        self._names = (CPT, PREFERENCES, *project.adapters)
        topics = [CHUNKS, EXAMPLES, DEAD_LETTERS, *map(dataset_topic, self._names)]
        self._follower = Follower(settings.broker, [settings.prefix + topic.name for topic in topics])
        self._prefix, self._codec = settings.prefix, open_codec(settings.registry)
        self._chunks: dict[str, tuple[ChunkStatus, set[tuple[str, int]]]] = {}
        self._examples: dict[str, tuple[str, str]] = {}
        self._datasets: dict[str, dict[str, bool]] = {name: {} for name in self._names}
        self._letters: dict[str, str] = {}

    async def __aenter__(self) -> Self:
        await self._follower.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self._follower.stop()

    async def update(self) -> None:
        """Reads what came since."""
        while records := await self._follower.poll():
            for record in records:
                self._apply(record)

    def _apply(self, record: Record) -> None:
        name = record.topic.removeprefix(self._prefix)
        if name == CHUNKS.name:
            chunk = self._codec.decode(Chunk, record.value)
            pages = range(chunk.page_first, chunk.page_last + 1) if chunk.page_first and chunk.page_last else ()
            self._chunks[chunk.chunk_id] = (chunk.status, {(chunk.doc_id, page) for page in pages})
        elif name == EXAMPLES.name:
            example = self._codec.decode(Example, record.value)
            self._examples[example.example_id] = (example.task, outcome(example))
        elif name == DEAD_LETTERS.name:
            letter = self._codec.decode(DeadLetter, record.value)
            self._letters[letter.letter_id] = letter.message
        else:
            row = self._codec.decode(DatasetRecord, record.value)
            self._datasets[name.removeprefix("datasets.")][row.example_id] = row.status is RecordStatus.LIVE

    @property
    def dead_letters(self) -> Counter[str]:
        """Why records are in the dead letters."""
        return Counter(self._letters.values())

    def to_json(self) -> dict[str, Any]:
        """Counts for the report."""
        statuses = Counter(status for status, _ in self._chunks.values())
        return {
            "pages": len(set[tuple[str, int]]().union(*(pages for _, pages in self._chunks.values()))),
            "chunks": statuses[ChunkStatus.LIVE], "duplicates": statuses[ChunkStatus.DUPLICATE], "dead_letters": len(self._letters),
            "examples": dict(sorted(Counter(task for task, _ in self._examples.values()).items())),
            "yields": dict(Counter(what for _, what in self._examples.values()).most_common()),
            "datasets": {name: sum(rows.values()) for name, rows in self._datasets.items()},
        }  # fmt: skip

    def __str__(self) -> str:
        counts = self.to_json()
        return f"{counts['pages']} pages, {counts['chunks']} chunks, {counts['duplicates']} duplicates, {sum(counts['examples'].values())} examples, {counts['dead_letters']} dead letters"
