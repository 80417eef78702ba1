"""The base and the adapters that serve: the watcher follows the registry.

A new version is loaded beside, warmed, and switched to; the old one is unloaded when nothing in flight names it. A new
base epoch gets an engine of its own with the adapters that its record names, beside the old one where memory allows;
else what is in flight ends first, and whoever asks meanwhile waits for the new one. Epochs never mix.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import structlog

from inference import admission
from inference.engines import Engine
from inference.proof import base_says, prove
from inference.wanted import NOBODY, Wanted
from runtime.artifacts import base_name, fetch, weight_shapes
from runtime.errors import InvalidInput, Transient
from runtime.follower import Follower
from runtime.ids import digest
from runtime.kafka import Record
from runtime.metrics import ENGINE_STARTS, LEASES, LOADS, PINNED, RESIDENT
from runtime.objects import Objects
from runtime.project import Project
from runtime.signing import NO_KEYS, Keys
from schemas.codec import Codec
from schemas.events import AdapterAlias, AdapterEvent, AdapterVersion, BaseEpoch
from schemas.topics import ADAPTERS, BASE

log = structlog.get_logger()
RETRY_SECONDS = 1.0
MakeEngine = Callable[[str, str], Engine]
"""An engine on the base in a folder, by the name that adapters call it."""
Refuse = Callable[[AdapterVersion, str], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Lease:
    """The engine that serves now, the version that answers for the adapter, and the one that shadows it; None when there is none."""

    engine: Engine
    version: AdapterVersion | None
    shadow: AdapterVersion | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version that is tried beside the live one, on a share of conversations."""

    version: AdapterVersion
    share: float
    shadow: bool

    def has(self, conversation: str) -> bool:
        """Whether the conversation is one of them: always the same are, whoever asks."""
        return int(digest("canary", self.version.engine_name, conversation)[:12], 16) < self.share * 16**12


@dataclass(slots=True)
class _Serving:
    """An engine on an epoch's base: the live version of each adapter, and how many hold which engine name."""

    engine: Engine
    base: str
    epoch: BaseEpoch
    live: dict[str, AdapterVersion] = field(default_factory=dict)
    candidates: dict[str, Candidate] = field(default_factory=dict)
    previous: dict[str, AdapterVersion] = field(default_factory=dict)
    leases: Counter[str] = field(default_factory=Counter)
    released: asyncio.Condition = field(default_factory=asyncio.Condition)
    of_base: dict[int, float] | None = None
    """What the base said to the probe when it was asked first."""

    def held(self, adapter: str) -> dict[str, AdapterVersion]:
        """The versions that answer for the adapter, by engine name."""
        candidate = self.candidates.get(adapter)
        return {version.engine_name: version for version in (self.live.get(adapter), candidate and candidate.version, self.previous.get(adapter)) if version}

    async def until_free(self, name: str | None = None) -> None:
        """Returns when nothing holds `name`, or anything at all."""
        async with self.released:
            await self.released.wait_for(lambda: not (any(self.leases.values()) if name is None else self.leases[name]))


class Residency:
    """Follows `adapters` and keeps the engine as epoch and aliases say. `refuse` is told of versions that may not serve."""

    def __init__(
        self, project: Project, broker: str, make_engine: MakeEngine, objects: Objects, tokenizer: Any, folder: Path, refuse: Refuse, prefix: str = "",
        codec: Codec | None = None, keys: Keys = NO_KEYS,
    ) -> None:  # fmt: skip
        self._project, self._make_engine, self._objects, self._tokenizer, self._folder, self._refuse, self._keys = project, make_engine, objects, tokenizer, folder, refuse, keys
        self._codec = codec or Codec()
        self._follower = Follower(broker, [prefix + ADAPTERS.name])
        self._wanted = Wanted()
        self._refused: set[str] = set()
        self._serving: _Serving | None = None
        self._asked = False
        self._chores: set[asyncio.Task[None]] = set()
        self.ready = asyncio.Event()
        """Set while there is an engine that answers."""

    @property
    def epoch(self) -> int | None:
        """The base epoch that serves."""
        return self._serving.epoch.epoch if self._serving else None

    @property
    def state(self) -> str:
        """`serving`, `starting` (an engine, or another epoch), or `standby` until there is an adapter or somebody asks."""
        return "serving" if self.ready.is_set() else "starting" if self._wanted.aliases or self._asked else "standby"

    def live(self) -> dict[str, AdapterVersion]:
        """Adapter to the version that its name stands for."""
        return dict(self._serving.live) if self._serving else {}

    def candidates(self) -> dict[str, AdapterVersion]:
        """Adapter to the version that is tried beside the live one."""
        return {adapter: one.version for adapter, one in self._serving.candidates.items()} if self._serving else {}

    def expect(self, adapter: str) -> None:
        """A request for `adapter` is on its way."""
        if self._serving and (live := self._serving.live.get(adapter)):
            self._serving.engine.expect(live.engine_name)

    @asynccontextmanager
    async def lease(self, adapter: str, version: int | Literal["previous"] | None = None, conversation: str | None = None) -> AsyncIterator[Lease]:
        """Engine and version for `adapter`, held meanwhile: the live one, or its candidate where `conversation` is one of those that it has; just `version` where it is one of these, or the
        previous one where it is kept.

        Waits while no engine serves; the first to ask starts it.
        """
        self._asked = True
        while (serving := self._serving) is None or not self.ready.is_set():
            await self.ready.wait()
        held, candidate, shadow = serving.live.get(adapter), serving.candidates.get(adapter), None
        if version == "previous":
            held = serving.previous.get(adapter)
        elif version is not None:
            held = next((one for one in serving.held(adapter).values() if one.version == version), None)
        elif candidate and conversation is not None and candidate.has(conversation):
            held, shadow = (held, candidate.version) if candidate.shadow else (candidate.version, None)
        name = held.engine_name if held else BASE
        serving.leases[name] += 1
        LEASES.labels(name).inc()
        try:
            yield Lease(serving.engine, held, shadow)
        finally:
            serving.leases[name] -= 1
            LEASES.labels(name).dec()
            async with serving.released:
                serving.released.notify_all()

    async def run(self, stop: asyncio.Event) -> None:
        """Follows the registry until `stop` is set, then stops the engine, also one that is starting."""
        await self._follower.start()
        following = asyncio.create_task(self._follow())
        stopping = asyncio.create_task(stop.wait())
        try:
            await asyncio.wait((following, stopping), return_when=asyncio.FIRST_COMPLETED)
            if following.done():
                await following
        finally:
            for task in (following, stopping):
                task.cancel()
            await asyncio.wait((following, stopping))
            await self._follower.stop()
            for task in self._chores:
                task.cancel()
            if self._serving:
                await self._serving.engine.stop()

    async def _follow(self) -> None:
        while True:
            await self._follower.deliver(self._apply)
            if await self._follower.caught_up():
                try:
                    await self._settle()
                except Transient as error:  # an engine that died is made anew with the next look
                    log.warning("engine.failed", error=str(error))
                    await asyncio.sleep(RETRY_SECONDS)

    def _apply(self, record: Record) -> None:
        self._wanted.apply(self._codec.decode(AdapterEvent, record.value))

    async def _settle(self) -> None:
        """Makes epoch and aliases true; an engine that died is started anew."""
        if self._serving is not None and not self._serving.engine.healthy:
            log.error("engine.died", epoch=self.epoch)
            await self._end()
        if self._serving is None and self.state == "standby":
            return
        if self._wanted.epoch is not None and (self._serving is None or self._serving.epoch != self._wanted.epoch):
            await self._switch_epoch(self._wanted.epoch)
        serving = self._serving
        if serving is None or serving.epoch != self._wanted.epoch:
            return
        for adapter, alias in self._wanted.aliases.items():
            before = serving.held(adapter)
            if alias.live_version == NOBODY and adapter in serving.live:
                del serving.live[adapter]
                log.info("adapter.retired", adapter=adapter)
            else:
                await self._bring(serving, adapter, alias.live_version)
            await self._try(serving, adapter, alias)
            await self._keep_previous(serving, adapter)
            for name in before.keys() - serving.held(adapter).keys():
                self._chore(self._drain(serving, before[name]))
            await self._pin(serving, adapter)
        if not self._chores:
            self._drop_tainted(serving)

    def _drop_tainted(self, serving: _Serving) -> None:
        """Deletes the files of tainted versions that nothing here serves any more."""
        kept = {serving.epoch.epoch and self._wanted.known[BASE, serving.epoch.epoch].engine_name, *(name for adapter in self._wanted.aliases for name in serving.held(adapter))}
        for one in [one for one in self._wanted.tainted if self._wanted.known[one].engine_name not in kept]:
            self._wanted.tainted.discard(one)
            shutil.rmtree(self._folder / self._wanted.known[one].engine_name, ignore_errors=True)

    async def _bring(self, serving: _Serving, adapter: str, number: int) -> None:
        """Loads version `number` and switches to it, unless it is live already, unknown or refused."""
        current = serving.live.get(adapter)
        if current and current.version == number:
            return
        version = await self._loaded(serving, adapter, number)
        if version is not None:
            serving.live[adapter] = version
            log.info("adapter.switched", adapter=adapter, engine_name=version.engine_name)

    async def _try(self, serving: _Serving, adapter: str, alias: AdapterAlias) -> None:
        """Puts the candidate that the alias names beside the live version, or takes away the one that there was."""
        version = await self._loaded(serving, adapter, alias.canary_version) if alias.canary_version and adapter in serving.live else None
        wanted = Candidate(version, alias.canary_share, alias.shadow) if version else None
        if wanted == serving.candidates.get(adapter):
            return
        if wanted is None:
            log.info("adapter.tried", adapter=adapter, engine_name=serving.candidates.pop(adapter).version.engine_name)
            return
        serving.candidates[adapter] = wanted
        log.info("adapter.trying", adapter=adapter, engine_name=wanted.version.engine_name, share=wanted.share, shadow=wanted.shadow)

    async def _pin(self, serving: _Serving, adapter: str) -> None:
        """Pins the live version where that is declared; without room, as long as an older one is there, again and again."""
        live = serving.live.get(adapter)
        if live and self._project.adapters[adapter].pinned and await serving.engine.pin(live.engine_name):
            PINNED.labels(live.engine_name).set(1)

    async def _keep_previous(self, serving: _Serving, adapter: str) -> None:
        """Keeps the version that was live before loaded, where the adapter falls back to it."""
        declared = self._project.adapters.get(adapter)
        if declared is None or "previous" not in declared.fallback or adapter not in serving.live:
            serving.previous.pop(adapter, None)
            return
        for number in self._wanted.before(adapter):
            if version := await self._loaded(serving, adapter, number):
                serving.previous[adapter] = version
                return
        serving.previous.pop(adapter, None)

    async def _loaded(self, serving: _Serving, adapter: str, number: int) -> AdapterVersion | None:
        """Version `number`, loaded now where it was not; None where it is unknown or refused."""
        version = self._wanted.known.get((adapter, number))
        if version is None or adapter not in self._project.adapters or version.engine_name in self._refused:
            return None
        if version.engine_name in serving.engine.names():  # also one that was on its way out
            return version
        began = time.monotonic()
        try:
            await self._load(serving, version)
        except InvalidInput as error:
            LOADS.labels("refused").observe(time.monotonic() - began)
            await self._turn_down(version, error)
            return None
        LOADS.labels("admitted").observe(time.monotonic() - began)
        return version

    async def _turn_down(self, version: AdapterVersion, error: Exception) -> None:
        self._refused.add(version.engine_name)
        log.error("adapter.refused", engine_name=version.engine_name, reason=str(error))
        await self._refuse(version, str(error))

    async def _switch_epoch(self, epoch: BaseEpoch) -> None:
        """Puts an engine on the base of `epoch` with its adapters in the place of the one that serves."""
        version = self._wanted.known.get((BASE, epoch.epoch))
        if epoch.epoch and (version is None or version.engine_name in self._refused):
            return
        try:
            base = str(await fetch(version, self._objects, self._folder, self._keys)) if version else self._project.base_folder
        except InvalidInput as error:
            assert version is not None
            await self._turn_down(version, error)
            return
        old, began = self._serving, time.monotonic()
        beside = old is not None and bool(old.live) and old.engine.has_room_beside()
        if not beside:
            await self._end()
        log.info("epoch.switching", epoch=epoch.epoch, beside=beside)
        serving = _Serving(self._make_engine(base, base_name(epoch.epoch, epoch.base_sha256)), base, epoch)
        await serving.engine.start()
        ENGINE_STARTS.inc()
        try:
            for adapter, alias in self._wanted.aliases.items():
                await self._bring(serving, adapter, alias.live_version)
        except BaseException:
            await serving.engine.stop()
            raise
        self._serving = serving
        self.ready.set()
        log.info("epoch.switched", epoch=epoch.epoch, beside=beside, seconds=round(time.monotonic() - began, 1))
        if beside and old is not None:
            self._chore(self._retire(old))

    async def _end(self) -> None:
        """Ends the engine that serves; whoever asks from now on waits."""
        self.ready.clear()
        if self._serving is not None:
            await self._retire(self._serving)
            self._serving = None

    async def _load(self, serving: _Serving, version: AdapterVersion) -> None:
        """Fetches, checks, loads and warms. Raises InvalidInput for one that may not serve."""
        admission.check_record(version, serving.epoch.epoch)
        folder = await fetch(version, self._objects, self._folder, self._keys)
        await asyncio.to_thread(admission.check_files, version, folder, base_name(serving.epoch.epoch, serving.epoch.base_sha256), weight_shapes(Path(serving.base)))
        engine = serving.engine
        await engine.add(version.engine_name, folder)
        try:
            base = serving.of_base = serving.of_base or await base_says(engine, self._tokenizer)
            await prove(engine, version.engine_name, self._project.adapters[version.adapter].spec, self._tokenizer, base)
        except (InvalidInput, Transient):  # what is loaded counts as proven
            await engine.remove(version.engine_name)
            raise
        RESIDENT.labels(version.engine_name).set(1)

    async def _drain(self, serving: _Serving, version: AdapterVersion) -> None:
        """Unloads a replaced version once nothing in flight names it."""
        await serving.until_free(version.engine_name)
        if version.engine_name in serving.held(version.adapter):
            return  # it was called back meanwhile
        await serving.engine.remove(version.engine_name)
        _forget(version.engine_name)
        log.info("adapter.unloaded", engine_name=version.engine_name)

    async def _retire(self, serving: _Serving) -> None:
        """Stops an engine once nothing is in flight on it."""
        await serving.until_free()
        loaded = serving.engine.names()
        await serving.engine.stop()
        for name in loaded:
            _forget(name)

    def _chore(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._chores.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, chore: asyncio.Task[None]) -> None:
        self._chores.discard(chore)
        if not chore.cancelled() and (error := chore.exception()):
            log.error("chore.failed", error=str(error))


def _forget(engine_name: str) -> None:
    """Takes an unloaded version out of the metrics."""
    for metric in (RESIDENT, PINNED, LEASES):
        with contextlib.suppress(KeyError):  # nobody ever asked it
            metric.remove(engine_name)
