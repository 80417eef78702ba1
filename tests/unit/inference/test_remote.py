"""Which replica is asked, who waits, and what becomes of requests and adapters as replicas come and go."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.engines import Generation, Hear
from inference.engines.balance import OVERLOAD, choose
from inference.engines.gate import FairGate
from inference.engines.remote import Failing, Gone, NotLoaded, RemoteEngine
from inference.engines.vllm_server import check
from runtime.errors import InvalidInput, Transient

FOLDER = Path("adapters")
URLS = st.lists(st.sampled_from([f"http://{name}" for name in "abcdefgh"]), min_size=1, unique=True)


class Fake:
    """A server that does what it is told to."""

    def __init__(self, url: str, base: str = "base@0-00000000") -> None:
        self.url, self.base = url, base
        self.adapters: set[str] = set()
        self.asked: list[str | None] = []
        self.fault: Exception | None = None
        self.load_fault: Exception | None = None
        self.away = False
        self.pieces: tuple[str, ...] = ("yes",)
        self.hold: asyncio.Event | None = None

    def _reach(self) -> None:
        if self.away:
            raise Gone("nobody there")

    async def look(self) -> tuple[str, frozenset[str]]:
        self._reach()
        return self.base, frozenset(self.adapters)

    async def load(self, name: str, folder: Path) -> None:
        self._reach()
        if self.load_fault:
            raise self.load_fault
        self.adapters.add(name)

    async def unload(self, name: str) -> None:
        self._reach()
        self.adapters.discard(name)

    async def generate(self, prompt: Sequence[int], adapter: str | None, grammar: str | None, max_tokens: int, hear: Hear | None) -> Generation:
        self._reach()
        self.asked.append(adapter)
        if adapter and adapter not in self.adapters:
            raise NotLoaded(adapter)
        for at, piece in enumerate(self.pieces):
            if at and self.fault:
                raise self.fault
            if hear:
                hear(piece)
        if self.fault:
            raise self.fault
        if self.hold:
            await self.hold.wait()
        return Generation("".join(self.pieces), len(self.pieces), 1.0)

    async def probe(self, prompt: Sequence[int], adapter: str | None) -> dict[int, float]:
        self._reach()
        return {1: 0.0}

    async def close(self) -> None: ...


@asynccontextmanager
async def running(*servers: Fake, window: int = 8) -> AsyncIterator[RemoteEngine]:
    engine = RemoteEngine(servers, "base@0-00000000", window)
    await asyncio.wait_for(engine.start(), 60)
    await until(lambda: len(engine.replicas()) == sum(not server.away and server.base == "base@0-00000000" for server in servers))
    try:
        yield engine
    finally:
        await engine.stop()


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not holds():
            await asyncio.sleep(0.01)


async def ask(engine: RemoteEngine, adapter: str | None = None, hear: Hear | None = None) -> str:
    return (await engine.generate([5], adapter, None, 4, hear)).text


@given(URLS, st.text("abc", min_size=1), st.data())
def test_an_adapter_stays_where_it_is_unless_its_replica_is_overloaded_or_gone(urls: list[str], adapter: str, data: st.DataObject) -> None:
    idle = dict.fromkeys(urls, 0)
    home = choose(adapter, idle)
    assert choose(adapter, dict(reversed(idle.items()))) == home
    busy = {url: data.draw(st.integers(0, 50)) for url in urls}
    chosen = choose(adapter, busy)
    assert busy[chosen] < OVERLOAD * (sum(busy.values()) + 1) / len(urls) + 1
    gone = data.draw(st.sampled_from(urls))
    if gone != home:
        assert choose(adapter, {url: 0 for url in urls if url != gone}) == home


@given(URLS, st.data())
def test_the_base_goes_to_who_has_least(urls: list[str], data: st.DataObject) -> None:
    busy = {url: data.draw(st.integers(0, 50)) for url in urls}
    assert busy[choose(None, busy)] == min(busy.values())


def test_there_is_nobody_to_choose_from() -> None:
    with pytest.raises(ValueError, match="no replica"):
        choose(None, {})


def test_adapters_are_spread_over_the_replicas() -> None:
    urls = dict.fromkeys(["http://a", "http://b"], 0)
    homes = [choose(f"adapter{i}", urls) for i in range(200)]
    assert 70 < homes.count("http://a") < 130


@pytest.mark.asyncio
async def test_so_many_pass_at_once_and_who_floods_waits_for_himself() -> None:
    gate, order, inside = FairGate(2), list[str](), list[int]()

    async def one(adapter: str) -> None:
        async with gate.turn(adapter, 10):
            order.append(adapter)
            inside.append(1)
            assert sum(inside) <= 2
            await asyncio.sleep(0)
            inside.append(-1)

    await asyncio.gather(*(one(adapter) for adapter in ["flood"] * 20 + ["late"]))
    assert order.index("late") < 5


@pytest.mark.asyncio
async def test_who_leaves_while_it_waits_keeps_no_place_and_a_wider_gate_lets_in_at_once() -> None:
    gate, leave = FairGate(1), asyncio.Event()

    async def one() -> str:
        async with gate.turn("a", 1):
            await leave.wait()
        return "done"

    holds, waits, goes = (asyncio.create_task(one()) for _ in range(3))
    await asyncio.sleep(0)
    goes.cancel()
    await asyncio.wait([goes])
    gate.capacity = 2
    leave.set()
    assert [*await asyncio.wait_for(asyncio.gather(holds, waits), 5)] == ["done", "done"]
    async with asyncio.timeout(5), gate.turn("b", 1), gate.turn("b", 1):
        pass


@pytest.mark.asyncio
async def test_a_request_goes_from_a_replica_that_has_gone_or_fails_to_the_other_and_is_told_once() -> None:
    first, second = Fake("http://a"), Fake("http://b")
    async with running(first, second) as engine:
        for server in (first, second):
            server.pieces = ("one ", "two ", "three")
        first.fault = Failing("HTTP 500")
        told: list[str] = []
        assert await ask(engine, hear=told.append) == "one two three"
        assert "".join(told) == "one two three"
        assert len(engine.replicas()) == 2, "a failure alone takes no replica away"
        first.fault, first.away = None, True
        assert [await ask(engine) for _ in range(3)] == ["one two three"] * 3
        assert engine.replicas() == ["http://b"]
        first.away = False
        await until(lambda: len(engine.replicas()) == 2)


@pytest.mark.asyncio
async def test_each_replica_is_asked_once_and_the_reasons_are_told() -> None:
    first, second = Fake("http://a"), Fake("http://b")
    async with running(first, second) as engine:
        first.fault, second.fault = Failing("HTTP 500: boom"), Gone("no route")
        with pytest.raises(Transient, match=r"http://a: HTTP 500: boom; http://b: no route"):
            await ask(engine)
        assert [len(first.asked), len(second.asked)] == [1, 1]
        assert engine.in_flight == 0


@pytest.mark.asyncio
async def test_requests_leave_a_replica_that_is_found_to_be_gone() -> None:
    first, second = Fake("http://a"), Fake("http://b")
    async with running(first, second) as engine:
        first.hold = asyncio.Event()
        asked = [asyncio.create_task(ask(engine)) for _ in range(4)]
        await until(lambda: len(first.asked) > 0)
        first.away = True
        assert await asyncio.wait_for(asyncio.gather(*asked), 5) == ["yes"] * 4


@pytest.mark.asyncio
async def test_adapters_are_on_every_replica_also_on_one_that_comes_back() -> None:
    first, second = Fake("http://a"), Fake("http://b")
    async with running(first, second) as engine:
        await engine.add("tool@1-aaaaaaaa", FOLDER)
        second.away, second.adapters = True, set()
        await until(lambda: engine.replicas() == ["http://a"])
        await engine.add("tool@2-bbbbbbbb", FOLDER)
        second.away = False
        await until(lambda: len(engine.replicas()) == 2)
        assert first.adapters == second.adapters == {"tool@1-aaaaaaaa", "tool@2-bbbbbbbb"} == engine.names()
        # another client takes one away
        first.adapters.clear()
        second.adapters.clear()
        assert [await ask(engine, "tool@2-bbbbbbbb") for _ in range(4)] == ["yes"] * 4
        await engine.remove("tool@2-bbbbbbbb")
        assert "tool@2-bbbbbbbb" not in first.adapters | second.adapters
        with pytest.raises(InvalidInput, match="not loaded tool@2"):
            await ask(engine, "tool@2-bbbbbbbb")


@pytest.mark.asyncio
async def test_an_adapter_that_one_replica_refuses_is_on_none() -> None:
    first, second = Fake("http://a"), Fake("http://b")
    async with running(first, second) as engine:
        second.load_fault = Failing("HTTP 500: no adapter found")
        with pytest.raises(InvalidInput, match="can't load tool@1-aaaaaaaa: HTTP 500: no adapter found"):
            await engine.add("tool@1-aaaaaaaa", FOLDER)
        assert (first.adapters, second.adapters, engine.names()) == (set(), set(), frozenset())
        # of one that goes meanwhile nothing is said against the adapter
        second.load_fault, second.away = None, True
        await engine.add("tool@1-aaaaaaaa", FOLDER)
        assert engine.names() == first.adapters == {"tool@1-aaaaaaaa"}


@pytest.mark.asyncio
async def test_a_replica_with_another_base_is_asked_nothing() -> None:
    old, new = Fake("http://a"), Fake("http://b", base="base@1-11111111")
    async with running(old, new) as engine:
        assert [await ask(engine) for _ in range(4)] == ["yes"] * 4
        assert not new.asked
        old.base = new.base
        await until(lambda: not engine.healthy)
        with pytest.raises(Transient, match="it serves base@1-11111111, not base@0-00000000"):
            await ask(engine)


@pytest.mark.asyncio
async def test_a_start_waits_for_a_replica_and_can_be_given_up() -> None:
    server = Fake("http://a")
    server.away = True
    engine = RemoteEngine([server], server.base, 8)
    starting = asyncio.create_task(engine.start())
    await asyncio.sleep(0.05)
    assert not starting.done()
    server.away = False
    await asyncio.wait_for(starting, 60)
    await engine.stop()
    assert not engine.healthy
    server.away = True
    again = asyncio.create_task(RemoteEngine([server], server.base, 8).start())
    await asyncio.sleep(0.05)
    again.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asyncio.wait_for(again, 5)


@pytest.mark.asyncio
async def test_a_grammar_that_is_none_is_told_before_anybody_is_asked() -> None:
    server = Fake("http://a")
    async with running(server) as engine:
        with pytest.raises(InvalidInput, match="refuses"):
            await engine.generate([5], None, 'root ::= "a', 4)
        assert not server.asked


@pytest.mark.asyncio
@pytest.mark.parametrize("fault", [KeyError("data"), ValueError("Expecting value"), TypeError("no list")])
async def test_what_is_no_server_of_its_kind_is_left_alone_and_looked_at_again(fault: Exception) -> None:
    first, second = Fake("http://a"), Fake("http://b")
    looks = second.look

    async def strange() -> tuple[str, frozenset[str]]:
        raise fault

    second.look = strange  # type: ignore[method-assign]
    engine = RemoteEngine([first, second], first.base, 8)
    await asyncio.wait_for(engine.start(), 60)
    try:
        assert engine.replicas() == ["http://a"]
        second.look = looks  # type: ignore[method-assign]
        await until(lambda: len(engine.replicas()) == 2)
    finally:
        await engine.stop()


@pytest.mark.parametrize(("status", "body", "named", "kind"), [
    (200, b"{}", None, None),
    (400, b'{"error": {"message": "too long"}}', None, InvalidInput),
    (404, b'{"error": {"message": "no such model"}}', "tool@1-0123abcd", NotLoaded),
    (404, b'{"error": {"message": "cannot be found"}}', None, InvalidInput),
    (404, b'{"detail": "Not Found"}', None, Gone),
    (404, b'{"detail": "Not Found"}', "tool@1-0123abcd", Gone),
    (401, b'{"error": "Unauthorized"}', None, Failing),
    (500, b"<html>", None, Failing),
    (503, b"", None, Failing),
])  # fmt: skip
def test_an_answer_that_is_none_is_told_for_what_it_is(status: int, body: bytes, named: str | None, kind: type[Exception] | None) -> None:
    if kind is None:
        check(status, body, named)
        return
    with pytest.raises(kind):
        check(status, body, named)
