"""Engines in processes of their own, on this machine or others, spoken to over HTTP: several replicas of one base behind the port that one engine has.

Each replica has all adapters. A request that its replica fails, or takes along as it dies, is asked of another one: answers are greedy, so that nothing is lost by asking twice.
A replica that comes back gets the adapters that it lacks before anybody is sent to it; one with another base, as they are rolled from epoch to epoch, is sent nobody.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Protocol, TypeVar

import structlog

from inference.engines import Generation, Hear
from inference.engines.balance import choose
from inference.engines.gate import FairGate
from runtime.errors import InvalidInput, Transient

log = structlog.get_logger()
LOOK_SECONDS = 1.0
SILENT_SECONDS = 5.0
"""A replica that does not say for so long how it is gets no requests, and those that it has go to another."""
REMIND_SECONDS = 30.0
T = TypeVar("T")


class Gone(Exception):
    """The server can't be reached, or does not answer."""


class Failing(Exception):
    """The server answered that it failed."""


class NotLoaded(Exception):
    """The server does not know the adapter: it was started anew, or another client of it took the adapter away."""


class Server(Protocol):
    """One server, by its own protocol.

    Raises of all that asks: Gone, Failing, InvalidInput; NotLoaded where an adapter is named.
    """

    url: str

    async def look(self) -> tuple[str, frozenset[str]]:
        """The name of its base, and its adapters."""

    async def load(self, name: str, folder: Path) -> None:
        """Loads the adapter in `folder`, as this process sees it; well for one that is loaded."""

    async def unload(self, name: str) -> None:
        """Unloads; well for one that is not loaded."""

    async def generate(self, prompt: Sequence[int], adapter: str | None, grammar: str | None, max_tokens: int, hear: Hear | None) -> Generation: ...

    async def probe(self, prompt: Sequence[int], adapter: str | None) -> dict[int, float]: ...

    async def close(self) -> None: ...


@dataclass(slots=True, eq=False)
class _Replica:
    """A server, whether it may be asked, and what it is asked just now: `asking` ends early where it goes."""

    server: Server
    up: bool = False
    why: str = "not asked yet"
    asking: set[asyncio.Timeout] = field(default_factory=set)
    heard: float = 0.0
    """When it answered anything last, by the event loop's clock."""

    async def ask(self, work: Callable[[Server], Awaitable[T]]) -> T:
        """What `work` gives. Raises Gone too where the replica is found to be gone meanwhile."""
        try:
            async with asyncio.timeout(None) as scope:
                self.asking.add(scope)
                try:
                    answer = await work(self.server)
                finally:
                    self.asking.discard(scope)
                self.heard = asyncio.get_running_loop().time()
                return answer
        except TimeoutError:
            raise Gone(self.why) from None

    def lose(self, why: str) -> None:
        """Nobody is sent to it, and who waits for it goes on."""
        if self.up:
            log.error("replica.lost", url=self.server.url, reason=why)
        self.up, self.why = False, why
        for scope in [scope for scope in self.asking if not scope.expired()]:
            scope.reschedule(asyncio.get_running_loop().time())


class RemoteEngine:
    """`servers` that serve the base named `base`; others of them are left alone until they do. Each has `window` requests at once, the rest wait here in a fair order."""

    def __init__(self, servers: Sequence[Server], base: str, window: int) -> None:
        self._base, self._window = base, window
        self._replicas = [_Replica(server) for server in servers]
        self._loaded: dict[str, Path] = {}
        self._gate = FairGate(0)
        self._in_flight = 0
        self._watching: asyncio.Task[None] | None = None
        self._changed = asyncio.Condition()
        self._look_now = asyncio.Event()

    async def start(self) -> None:
        """Returns when a replica serves the base; says what it waits for meanwhile."""
        self._watching = asyncio.create_task(self._watch())
        try:
            await asyncio.to_thread(import_module, "xgrammar")  # seconds, of torch: not where the first request waits, nor where heartbeats do
            async with self._changed:
                while not self.healthy:
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(REMIND_SECONDS):
                            await self._changed.wait()
                            continue
                    log.warning("engine.waiting", base=self._base, replicas={replica.server.url: replica.why for replica in self._replicas})
        except asyncio.CancelledError:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Lets go of the replicas; their adapters stay, since others may use them."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.wait([self._watching])
        for replica in self._replicas:
            replica.lose("the engine was stopped")
            await replica.server.close()
        self._loaded = {}

    def replicas(self) -> list[str]:
        """The URLs of those that answer."""
        return [replica.server.url for replica in self._up()]

    @property
    def healthy(self) -> bool:
        return any(replica.up for replica in self._replicas)

    def has_room_beside(self) -> bool:
        return True  # the replicas' machines have: those of the next epoch's base are others

    async def add(self, name: str, folder: Path) -> None:
        have, asked = list[_Replica](), set[_Replica]()
        try:
            while new := [replica for replica in self._up() if replica not in asked]:  # some may come back meanwhile
                asked |= {*new}
                outcomes = await asyncio.gather(*(self._load(replica, name, folder) for replica in new), return_exceptions=True)
                have += [replica for replica, outcome in zip(new, outcomes, strict=True) if outcome is None]
                for outcome in outcomes:
                    if isinstance(outcome, BaseException) and not isinstance(outcome, Gone):
                        raise outcome
            if not any(replica.up for replica in have):
                raise Transient("no replica is left to load it")
        except BaseException as error:
            for replica in have:
                with contextlib.suppress(Gone, Failing):
                    await replica.server.unload(name)
            if isinstance(error, Failing):  # vLLM's word for an adapter that it can't read
                raise InvalidInput(f"the engine can't load {name}: {error}") from error
            raise
        self._loaded[name] = folder

    async def _load(self, replica: _Replica, name: str, folder: Path) -> None:
        """Raises Failing where it is the adapter's fault, since the server is well otherwise."""
        try:
            try:
                await replica.ask(lambda server: server.load(name, folder))
            except Failing:
                await replica.ask(lambda server: server.look())
                raise
        except Gone as error:
            self._lose(replica, str(error))
            raise

    async def remove(self, name: str) -> None:
        if self._loaded.pop(name, None) is None:
            return
        for replica in self._up():
            try:
                await replica.ask(lambda server: server.unload(name))
                _, left = await replica.ask(lambda server: server.look())
            except (Gone, Failing) as error:
                self._lose(replica, str(error))  # what it has is set right when it comes back
                continue
            if name in left and name not in self._loaded:
                raise Transient(f"{replica.server.url} still lists {name} after its removal")

    async def pin(self, name: str) -> bool:
        return False  # no server's API has it

    def expect(self, name: str) -> None:
        """Servers read adapters as requests for them come."""

    def names(self) -> frozenset[str]:
        return frozenset(self._loaded)

    @property
    def in_flight(self) -> int:
        return self._in_flight

    async def generate(self, prompt: Sequence[int], adapter: str | None, grammar: str | None, max_tokens: int, hear: Hear | None = None, priority: int = 0) -> Generation:
        if grammar:
            _check(grammar)
        once = _Once(hear) if hear else None
        return await self._ask(adapter, len(prompt) + max_tokens, lambda server: server.generate(prompt, adapter, grammar, max_tokens, once.attempt() if once else None), priority)

    async def probe(self, prompt: Sequence[int], adapter: str | None) -> dict[int, float]:
        return await self._ask(adapter, len(prompt) + 1, lambda server: server.probe(prompt, adapter))

    async def _ask(self, adapter: str | None, cost: int, work: Callable[[Server], Awaitable[T]], priority: int = 0) -> T:
        """What a replica answers; each is asked once."""
        self._in_flight += 1
        try:
            async with self._gate.turn(adapter, cost, priority):
                failed: dict[str, str] = {}
                while left := {replica.server.url: len(replica.asking) for replica in self._up() if replica.server.url not in failed}:
                    if adapter and adapter not in self._loaded:
                        raise InvalidInput(f"the engine has not loaded {adapter}")
                    url = choose(adapter, left)
                    replica = next(one for one in self._replicas if one.server.url == url)
                    try:
                        return await self._of(replica, adapter, work)
                    except Gone as error:
                        failed[url] = str(error)
                        self._lose(replica, str(error))
                    except Failing as error:
                        failed[url] = str(error)
                        self._look_now.set()
                raise Transient("no replica answers: " + "; ".join(f"{one.server.url}: {failed.get(one.server.url, one.why)}" for one in self._replicas))
        finally:
            self._in_flight -= 1

    async def _of(self, replica: _Replica, adapter: str | None, work: Callable[[Server], Awaitable[T]]) -> T:
        try:
            return await replica.ask(work)
        except NotLoaded as error:
            folder = self._loaded.get(adapter or "")
            if adapter is None or folder is None:
                raise InvalidInput(f"the engine has not loaded {adapter}") from error
            await self._load(replica, adapter, folder)
        try:
            return await replica.ask(work)
        except NotLoaded as error:
            raise Failing(f"it loads {adapter} and does not know it") from error

    def _up(self) -> list[_Replica]:
        return [replica for replica in self._replicas if replica.up]

    def _lose(self, replica: _Replica, why: str) -> None:
        replica.lose(why)
        self._gate.capacity = self._window * max(1, len(self._up()))  # with none up who waits is to be told

    async def _watch(self) -> None:
        """Looks at every replica once a second, or sooner where one failed."""
        while True:
            self._look_now.clear()
            began = time.monotonic()
            await asyncio.gather(*map(self._look_at, self._replicas))
            with contextlib.suppress(TimeoutError):  # no `wait_for`, which may drop a cancellation
                async with asyncio.timeout(LOOK_SECONDS if time.monotonic() - began < LOOK_SECONDS else 0.1):
                    await self._look_now.wait()

    async def _look_at(self, replica: _Replica) -> None:
        server = replica.server
        try:
            async with asyncio.timeout(SILENT_SECONDS):
                base, there = await server.look()
        except TimeoutError:
            if asyncio.get_running_loop().time() - replica.heard > SILENT_SECONDS:  # else it is busy: those who ask are answered
                self._lose(replica, f"no word for {SILENT_SECONDS:.0f} s")
            return
        except (Gone, Failing, InvalidInput) as error:
            self._lose(replica, str(error))
            return
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            self._lose(replica, f"it answers as no server of its kind does: {type(error).__name__}: {error}")
            return
        if base != self._base:
            self._lose(replica, f"it serves {base}, not {self._base}")
            return
        try:
            while missing := [name for name in self._loaded if name not in there]:
                for name in missing:
                    await server.load(name, self._loaded[name])
                _, there = await server.look()
        except KeyError:  # removed meanwhile: the next look sees to the rest
            return
        except (Gone, Failing, InvalidInput) as error:
            self._lose(replica, str(error))
            return
        if not replica.up:
            log.info("replica.found", url=server.url, base=base, adapters=len(there))
            replica.up, replica.why = True, ""
            self._gate.capacity = self._window * len(self._up())
            async with self._changed:
                self._changed.notify_all()


@lru_cache(maxsize=1024)
def _check(grammar: str) -> None:
    """Raises InvalidInput for a grammar that is none: of that servers say no more than that they failed."""
    from xgrammar import Grammar

    try:
        Grammar.from_ebnf(grammar)
    except RuntimeError as error:
        raise InvalidInput(f"the engine refuses the request: {error}") from error


class _Once:
    """Tells each piece of a text once, though it may be asked for again."""

    def __init__(self, hear: Hear) -> None:
        self._hear, self._told = hear, 0

    def attempt(self) -> Hear:
        """For one attempt: what an earlier one told is not told again."""
        had = 0

        def hear(piece: str) -> None:
            nonlocal had
            had += len(piece)
            if had > self._told:
                self._hear(piece[len(piece) - (had - self._told) :])
                self._told = had

        return hear
