"""The adapters that serve: the watcher follows the registry; a new version is loaded beside, warmed, and switched to;
the old one is unloaded when nothing in flight names it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import structlog

from inference import admission
from inference.engines import Engine
from runtime.errors import InvalidInput
from runtime.follower import Follower
from runtime.kafka import Record
from runtime.objects import Objects
from runtime.project import Project
from runtime.tasks.prompt import Prompt, prompt_ids
from schemas.codec import Codec
from schemas.events import AdapterEvent, AdapterEventKind, AdapterVersion
from schemas.topics import ADAPTERS

log = structlog.get_logger()
PROBE = Prompt("labels: yes, no", "Is this a probe of the adapter's effect?")
Refuse = Callable[[AdapterVersion, str], Awaitable[None]]


class Residency:
    """Follows `adapters` and keeps the engine as its aliases say. `refuse` is told of versions that may not serve."""

    def __init__(self, project: Project, broker: str, engine: Engine, objects: Objects, tokenizer: Any, folder: Path, refuse: Refuse, prefix: str = "") -> None:
        self._engine, self._objects, self._tokenizer, self._folder, self._refuse = engine, objects, tokenizer, folder, refuse
        self._project = project
        self._codec = Codec()
        self._follower = Follower(broker, {prefix + ADAPTERS.name: ADAPTERS.partitions})
        self._known: dict[tuple[str, int], AdapterVersion] = {}
        self._wanted: dict[str, int] = {}
        self._refused: set[str] = set()
        self._live: dict[str, AdapterVersion] = {}
        self._leases: Counter[str] = Counter()
        self._released = asyncio.Condition()
        self._drains: set[asyncio.Task[None]] = set()
        self._epoch = 0
        self._base_name = ""
        self.ready = asyncio.Event()

    def live(self) -> dict[str, AdapterVersion]:
        """Adapter to the version that its name stands for."""
        return dict(self._live)

    @asynccontextmanager
    async def lease(self, adapter: str, version: int | None = None) -> AsyncIterator[AdapterVersion | None]:
        """The version that answers for `adapter` now, held loaded meanwhile; None when there is none."""
        held = self._live.get(adapter)
        if held is not None and version not in (None, held.version):
            held = None
        if held is None:
            yield None
            return
        self._leases[held.engine_name] += 1
        try:
            yield held
        finally:
            self._leases[held.engine_name] -= 1
            async with self._released:
                self._released.notify_all()

    async def run(self, stop: asyncio.Event) -> None:
        """Follows the registry until `stop` is set."""
        await self._follower.start()
        try:
            while not stop.is_set():
                await self._follower.deliver(self._apply)
                if await self._follower.caught_up():
                    await self._settle()
                    self.ready.set()
        finally:
            await self._follower.stop()
            for task in self._drains:
                task.cancel()

    def _apply(self, record: Record) -> None:
        event = self._codec.decode(AdapterEvent, record.value)
        if event.version is not None and event.kind is AdapterEventKind.VERSION:
            self._known[event.adapter, event.version.version] = event.version
        if event.alias is not None:
            self._wanted[event.adapter] = event.alias.live_version
        if event.epoch is not None:
            self._epoch = event.epoch.epoch
            self._base_name = f"base@{event.epoch.epoch}-{event.epoch.base_sha256[:8]}"

    async def _settle(self) -> None:
        """Makes every alias true."""
        for adapter, number in self._wanted.items():
            version = self._known.get((adapter, number))
            current = self._live.get(adapter)
            if version is None or adapter not in self._project.adapters or version.engine_name in self._refused or (current and current.version == number):
                continue
            try:
                await self._load(version)
            except InvalidInput as error:
                self._refused.add(version.engine_name)
                log.error("adapter.refused", engine_name=version.engine_name, reason=str(error))
                await self._refuse(version, str(error))
                continue
            self._live[adapter] = version
            log.info("adapter.switched", adapter=adapter, engine_name=version.engine_name)
            if current is not None:
                task = asyncio.create_task(self._drain(current))
                self._drains.add(task)
                task.add_done_callback(self._drains.discard)

    async def _load(self, version: AdapterVersion) -> None:
        """Fetches, checks, loads and warms. Raises InvalidInput for one that may not serve."""
        admission.check_record(version, self._epoch)
        folder = self._folder / version.engine_name
        folder.mkdir(parents=True, exist_ok=True)
        prefix = version.artifact_uri.removeprefix(self._objects.url + "/")
        if prefix == version.artifact_uri or ".." in prefix.split("/"):
            raise InvalidInput(f"{version.engine_name}: its artifact is outside of the object store {self._objects.url}")
        for file in version.files:
            (folder / file.path).write_bytes(await self._objects.get(f"{prefix}/{file.path}"))
        await asyncio.to_thread(admission.check_files, version, folder, self._base_name)
        await self._engine.add(version.engine_name, folder)
        ids = prompt_ids(self._tokenizer, PROBE)
        base, again = await self._engine.probe(ids, None), await self._engine.probe(ids, None)
        if not admission.has_effect(base, again, await self._engine.probe(ids, version.engine_name)):
            await self._engine.remove(version.engine_name)
            raise InvalidInput(f"{version.engine_name} has no effect: it answers as the base does")

    async def _drain(self, version: AdapterVersion) -> None:
        """Unloads a replaced version once nothing in flight names it."""
        async with self._released:
            await self._released.wait_for(lambda: self._leases[version.engine_name] == 0)
        await self._engine.remove(version.engine_name)
        log.info("adapter.unloaded", engine_name=version.engine_name)
