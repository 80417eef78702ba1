"""Which versions answer, and which are loaded, as the registry's records come."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from inference.residency import Residency
from runtime.kafka import Record
from runtime.objects import Objects
from runtime.project import Adapter, Project
from schemas.codec import Codec
from schemas.events import AdapterAlias, AdapterEvent, AdapterEventKind, AdapterVersion, BaseEpoch

CODEC = Codec()


class Engine:
    """Keeps names."""

    healthy = True

    def __init__(self) -> None:
        self.loaded: set[str] = set()
        self.loads: list[str] = []
        self.pinned: set[str] = set()

    async def pin(self, name: str) -> bool:
        if not self.pinned:
            self.pinned.add(name)
        return name in self.pinned

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def names(self) -> frozenset[str]:
        return frozenset(self.loaded)

    async def remove(self, name: str) -> None:
        await asyncio.sleep(0)
        self.loaded.discard(name)
        self.pinned.discard(name)


def version(number: int) -> AdapterVersion:
    return AdapterVersion(version=number, engine_name=f"mood@{number}-0123abcd", base_epoch=0, artifact_uri="", files=(), run_id="", recipe_hash="", manifest_sha256="", rank=8, metrics={}, verdict="")


class Serving(Residency):
    """A residency without a broker, that loads without files."""

    def __init__(self, folder: Path, fallback: tuple[str, ...], *, pinned: bool = False) -> None:
        adapter = Adapter(task="classify", result="moods", labels=("A",), fallback=fallback, pinned=pinned)  # type: ignore[arg-type]
        self.engine = Engine()

        async def refuse(version: AdapterVersion, reason: str) -> None: ...

        none: Any = None
        super().__init__(Project(adapters={"mood": adapter}), "nowhere:1", lambda *_: self.engine, Objects(folder.as_uri()), none, folder, refuse)  # type: ignore[arg-type]
        self.tell(AdapterEvent(adapter="*", kind=AdapterEventKind.EPOCH, epoch=BaseEpoch(epoch=0, base_uri="", base_sha256="00", live={})))
        for number in range(1, 9):
            self.tell(AdapterEvent(adapter="mood", kind=AdapterEventKind.VERSION, version=version(number)))

    async def _load(self, serving: Any, version: AdapterVersion) -> None:
        self.engine.loads.append(version.engine_name)
        self.engine.loaded.add(version.engine_name)

    def tell(self, event: AdapterEvent) -> None:
        self._apply(Record("adapters", 0, 0, b"", CODEC.encode(event)))

    async def alias(self, live: int, candidate: int | None = None, *, share: float = 0.5, shadow: bool = False) -> None:
        self.tell(AdapterEvent(adapter="mood", kind=AdapterEventKind.ALIAS, alias=AdapterAlias(live_version=live, canary_version=candidate, canary_share=share if candidate else 0.0, shadow=shadow)))
        await self._settle()
        for _ in range(10):
            await asyncio.sleep(0)

    def numbers(self) -> set[int]:
        """The versions that are loaded."""
        return {int(name.partition("@")[2].partition("-")[0]) for name in self.engine.loaded}

    async def who(self, conversation: str | None = None, number: Any = None) -> tuple[int | None, int | None]:
        """Who answers, and who shadows."""
        async with self.lease("mood", number, conversation) as lease:
            return lease.version.version if lease.version else None, lease.shadow.version if lease.shadow else None


@asynccontextmanager
async def following(folder: Path, *fallback: str, pinned: bool = False) -> AsyncIterator[Serving]:
    made = Serving(folder, fallback, pinned=pinned)
    yield made
    await made._follower.stop()


@pytest_asyncio.fixture
async def serving(tmp_path: Path) -> AsyncIterator[Serving]:
    async with following(tmp_path) as made:
        yield made


@pytest.mark.asyncio
async def test_a_candidate_answers_its_conversations_and_goes_without_a_trace(serving: Serving) -> None:
    await serving.alias(1)
    await serving.alias(1, 2)
    assert serving.numbers() == {1, 2}
    answers = [(await serving.who(f"c{i}"))[0] for i in range(200)]
    assert 70 < answers.count(2) < 130
    assert answers == [(await serving.who(f"c{i}"))[0] for i in range(200)]
    assert [await serving.who(), await serving.who(number=2), await serving.who(number=3)] == [(1, None), (2, None), (None, None)]
    await serving.alias(1)
    assert (serving.numbers(), {await serving.who(f"c{i}") for i in range(50)}) == ({1}, {(1, None)})


@pytest.mark.asyncio
async def test_a_candidate_that_is_promoted_is_not_loaded_anew(serving: Serving) -> None:
    await serving.alias(1)
    await serving.alias(1, 2)
    await serving.alias(2)
    assert (serving.numbers(), await serving.who("c")) == ({2}, (2, None))
    assert serving.engine.loads == [version(1).engine_name, version(2).engine_name]


@pytest.mark.asyncio
async def test_a_shadow_answers_nobody(serving: Serving) -> None:
    await serving.alias(1)
    await serving.alias(1, 2, share=0.5, shadow=True)
    said = {await serving.who(f"c{i}") for i in range(100)}
    assert said == {(1, None), (1, 2)}


@pytest.mark.asyncio
async def test_a_new_epoch_has_no_candidate(serving: Serving) -> None:
    await serving.alias(1)
    await serving.alias(1, 2)
    serving.tell(AdapterEvent(adapter="*", kind=AdapterEventKind.EPOCH, epoch=BaseEpoch(epoch=0, base_uri="", base_sha256="00", live={"mood": 3})))
    assert serving._wanted.aliases == {"mood": AdapterAlias(live_version=3)}


@pytest.mark.asyncio
async def test_a_version_that_is_called_back_while_it_goes_stays(serving: Serving) -> None:
    await serving.alias(1)
    async with serving.lease("mood"):
        await serving.alias(2)
        assert serving.numbers() == {1, 2}, "somebody holds it"
        await serving.alias(1)
    for _ in range(10):
        await asyncio.sleep(0)
    assert (serving.numbers(), await serving.who()) == ({1}, (1, None))
    assert serving.engine.loads == [version(1).engine_name, version(2).engine_name]


@pytest.mark.asyncio
async def test_the_version_before_is_kept_where_the_adapter_falls_back_to_it(tmp_path: Path) -> None:
    async with following(tmp_path, "previous") as serving:
        for number in (1, 2, 3):
            await serving.alias(number)
        assert (serving.numbers(), await serving.who(), await serving.who(number="previous")) == ({2, 3}, (3, None), (2, None))
        await serving.alias(2)  # rolled back: the one before it is 1
        assert (serving.numbers(), await serving.who(number="previous")) == ({1, 2}, (1, None))
        serving.tell(AdapterEvent(adapter="mood", kind=AdapterEventKind.TAINT, version=version(1), reason="forgotten"))
        await serving.alias(2)
        assert (serving.numbers(), await serving.who(number="previous")) == ({2}, (None, None))
        await serving.alias(0)
        assert (serving.numbers(), await serving.who()) == (set(), (None, None))


@pytest.mark.asyncio
async def test_the_live_version_is_pinned_as_soon_as_the_one_before_it_leaves_room(tmp_path: Path) -> None:
    async with following(tmp_path, pinned=True) as serving:
        await serving.alias(1)
        assert serving.engine.pinned == {version(1).engine_name}
        async with serving.lease("mood"):
            await serving.alias(2)
            assert (serving.engine.pinned, await serving.who()) == ({version(1).engine_name}, (2, None))
        await serving.alias(2)
        await serving.alias(2)
        assert (serving.numbers(), serving.engine.pinned) == ({2}, {version(2).engine_name})
