"""Where a version comes from, down to documents and pages; and which versions learned from a document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from loom.versions import manifest_of
from runtime.errors import SettingsError
from runtime.follower import read_whole
from runtime.kafka import Record, partitions_of
from runtime.objects import Objects
from schemas.codec import Codec
from schemas.events import AdapterVersion, Chunk, ChunkStatus, Example, ExampleStatus
from schemas.topics import BASE, CHUNKS, EXAMPLES
from streams.context import UPSTREAM, USER, document_owner
from streams.format import pair_id
from trainers.fleet import Fleet

Name = tuple[str, int]
"""Adapter, or base, and version."""


@dataclass(frozen=True, slots=True)
class Source:
    """A document that examples came from: how many, and of which pages (none where it has none)."""

    doc_id: str
    examples: int
    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Step:
    """A version, what it learned from by itself, and how it belongs to the version that was asked for: itself, its parent, its base."""

    name: str
    as_what: str
    run_id: str
    recipe_hash: str
    manifest_sha256: str
    dataset_sha256: str
    ranges: tuple[Mapping[str, Any], ...]
    documents: tuple[Source, ...]
    labels: int
    corrections: int
    unknown: int


@dataclass(frozen=True, slots=True)
class Learner:
    """A version that learned from a document: how many examples of it, or through which other version."""

    adapter: str
    version: int
    examples: int
    through: str | None
    live: bool

    @property
    def name(self) -> str:
        return f"{self.adapter}@{self.version}"


@dataclass(frozen=True, slots=True)
class Provenance:
    """What the topics say of examples: each by its id and by that of its preference, and each chunk with its pages."""

    examples: Mapping[str, Example]
    chunks: Mapping[str, Chunk]

    def sources(self, ids: Iterable[str]) -> tuple[tuple[Source, ...], Counter[str]]:
        """The documents that the examples `ids` came from, and how many came from elsewhere: upstream, a user, or nowhere that is known. Pure."""
        counts: Counter[str] = Counter()
        pages: dict[str, set[int]] = {}
        others: Counter[str] = Counter()
        for example_id in ids:
            example = self.examples.get(example_id)
            if example is None or (example.doc_id is None and example.teacher not in (UPSTREAM, USER)):
                others["unknown"] += 1
            elif example.doc_id is None:
                others[example.teacher] += 1
            else:
                counts[example.doc_id] += 1
                pages.setdefault(example.doc_id, set()).update(self._pages(example))
        return tuple(Source(doc_id, count, tuple(sorted(pages[doc_id]))) for doc_id, count in sorted(counts.items())), others

    def of_owner(self, owner: str) -> frozenset[str]:
        """The ids of the examples whose texts are sealed under the key of `owner`, and of their preferences. Pure."""
        return frozenset(example_id for example_id, example in self.examples.items() if owner == (example.input.key_id if example.input else document_owner(example.doc_id or "")))

    def _pages(self, example: Example) -> range:
        chunk = self.chunks.get(example.chunk_id or "")
        return range(chunk.page_first, (chunk.page_last or chunk.page_first) + 1) if chunk and chunk.page_first is not None else range(0)


async def provenance(broker: str, codec: Codec, prefix: str) -> Provenance:
    """As `examples` and `chunks` have it, also of what is withdrawn now."""
    examples: dict[str, Example] = {}
    chunks: dict[str, Chunk] = {}

    def keep(record: Record) -> None:
        if record.topic == prefix + EXAMPLES.name:
            example = codec.decode(Example, record.value)
            if example.status is not ExampleStatus.WITHDRAWN or example.example_id not in examples:
                examples[example.example_id] = examples[pair_id(example.example_id)] = example
        else:
            chunk = codec.decode(Chunk, record.value)
            if chunk.status is not ChunkStatus.WITHDRAWN or chunk.chunk_id not in chunks:
                chunks[chunk.chunk_id] = chunk

    await read_whole(broker, await partitions_of(broker, [prefix + EXAMPLES.name, prefix + CHUNKS.name]), keep)
    return Provenance(examples, chunks)


class Lineage:
    """Follows versions to those that they come from, by the manifests in their artifacts."""

    def __init__(self, fleet: Fleet, objects: Objects, known: Provenance) -> None:
        self._objects, self._known = objects, known
        self._versions = {(name, number): version for name, state in fleet.states.items() for number, version in state.versions.items()}
        self._live = {(name, state.live) for name, state in fleet.adapters.items()} | ({(BASE, fleet.epoch.epoch)} if fleet.epoch else set())
        self._names = {version.engine_name: name for name, version in self._versions.items()}
        self._manifests: dict[Name, Mapping[str, Any]] = {}

    async def of_version(self, name: Name) -> list[Step]:
        """The version, then those that it comes from. Raises SettingsError where it is not in the registry."""
        if name not in self._versions:
            raise SettingsError(f"no version {name[0]}@{name[1]}: `loom adapters` lists them")
        return [await self._step(one, as_what) for one, as_what in [(name, "itself"), *[found async for found in self._ancestors(name)]]]

    async def of_document(self, doc_id: str) -> list[Learner]:
        """The versions that learned from a document, by themselves or through others. Raises SettingsError where no example of it is known."""
        own = self._known.of_owner(document_owner(doc_id))
        if not own:
            raise SettingsError(f"no example was made of a document {doc_id!r}")
        return await self.learners(own)

    async def learners(self, own: frozenset[str]) -> list[Learner]:
        """The versions that learned from the examples `own`, by themselves or through others."""
        learned = {name: len(own & set((await self._manifest(name))["example_ids"])) for name in self._versions}
        found = []
        for name in sorted(self._versions):
            through = next((f"{a}@{n}" for (a, n), _ in [one async for one in self._ancestors(name)] if learned[a, n]), None)
            if learned[name] or through:
                found.append(Learner(*name, learned[name], None if learned[name] else through, name in self._live))
        return found

    async def _ancestors(self, name: Name) -> Any:
        """The versions that `name` comes from, the nearest first, with what each is to the one before."""
        seen, waiting = {name}, [name]
        while waiting:
            at = waiting.pop(0)
            for found, as_what in self._parents(self._versions[at], await self._manifest(at)):
                if found in self._versions and found not in seen:
                    seen.add(found)
                    waiting.append(found)
                    yield found, as_what

    def _parents(self, version: AdapterVersion, manifest: Mapping[str, Any]) -> Iterator[tuple[Name, str]]:
        if (parent := self._names.get(manifest.get("parent") or "")) is not None:
            yield parent, "what it goes on from"
        if version.base_epoch:
            yield (BASE, version.base_epoch), "its base"

    async def _manifest(self, name: Name) -> Mapping[str, Any]:
        if name not in self._manifests:
            self._manifests[name] = await manifest_of(self._versions[name], self._objects)
        return self._manifests[name]

    async def _step(self, name: Name, as_what: str) -> Step:
        version, manifest = self._versions[name], await self._manifest(name)
        documents, others = self._known.sources(manifest["example_ids"])
        return Step(
            f"{name[0]}@{name[1]}", as_what, version.run_id, version.recipe_hash, version.manifest_sha256, manifest["dataset_sha256"], tuple(manifest["ranges"]), documents,
            others[UPSTREAM], others[USER], others["unknown"],
        )  # fmt: skip


def pages_in_words(pages: Sequence[int]) -> str:
    """`1-3, 7`; empty where there are none. Pure."""
    runs: list[list[int]] = []
    for page in pages:
        if runs and page == runs[-1][-1] + 1:
            runs[-1].append(page)
        else:
            runs.append([page])
    return ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
