"""The whole system on this machine: embedded services, and every worker as a supervised process."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

import structlog

from loom.embedded.kafka import EmbeddedKafka, free_port
from loom.embedded.postgres import EmbeddedPostgres
from loom.offsets import check_groups
from loom.processes import ON_ONE_MACHINE
from runtime.database import migrate
from runtime.errors import LoomError, SettingsError
from runtime.kafka import apply_topics
from runtime.machine import MALLOC
from runtime.project import Project, load_project
from runtime.settings import Settings
from schemas.registry import Registry, RegistryUnavailable

log = structlog.get_logger()
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
STEADY_SECONDS = 60.0
DRAIN_SECONDS = 30.0
LOADING_SECONDS = 15.0
"""A broker that has just started may read its consumer groups for so long before it lists them."""
MIN_FREE_BYTES = 2 << 30
MIN_MEMORY_BYTES = 6 << 30
CONSUMER_GROUPS = ("chunk", "synth", "format", "inference")


@dataclass(slots=True)
class Supervised:
    """A worker's process: restarted with a growing pause when it ends by itself."""

    name: str
    environment: dict[str, str]
    log_path: Path
    state: str = "starting"
    restarts: int = 0
    process: asyncio.subprocess.Process | None = None

    async def keep(self, stop: asyncio.Event) -> None:
        """Keeps the worker running until `stop` is set, then drains it."""
        failures = 0
        while not stop.is_set():
            began = time.monotonic()
            with self.log_path.open("ab") as out:
                self.process = await asyncio.create_subprocess_exec(sys.executable, "-m", "loom", "worker", self.name, env=self.environment, stdout=out, stderr=out, start_new_session=True)
            self.state = "running"
            ended, stopped = asyncio.create_task(self.process.wait()), asyncio.create_task(stop.wait())
            await asyncio.wait({ended, stopped}, return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
            if stop.is_set():
                await self._drain(ended)
                return
            self._sweep()
            failures = 0 if time.monotonic() - began > STEADY_SECONDS else failures + 1
            self.restarts += 1
            self.state = f"restarting after exit {ended.result()}"
            log.warning("worker.ended", worker=self.name, code=ended.result(), log=str(self.log_path))
            pause = BACKOFF_SECONDS[min(failures, len(BACKOFF_SECONDS)) - 1] if failures else 0.0
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), pause)

    async def _drain(self, ended: asyncio.Task[int]) -> None:
        assert self.process is not None
        self.state = "draining"
        if self.process.returncode is None:
            self.process.terminate()
        try:
            await asyncio.wait_for(asyncio.shield(ended), DRAIN_SECONDS)
        except TimeoutError:
            self._sweep()
            await ended
        self._sweep()
        self.state = "stopped"

    def _sweep(self) -> None:
        """Ends what a worker that died left behind: its engine, its training run."""
        assert self.process is not None
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)


@dataclass(slots=True)
class Stack:
    """Started in order: broker, database, tables, topics, workers; stopped in reverse."""

    settings: Settings
    workers: tuple[str, ...] = ON_ONE_MACHINE
    supervised: dict[str, Supervised] = field(default_factory=dict)
    _kafka: EmbeddedKafka | None = None
    _postgres: EmbeddedPostgres | None = None
    _started: Settings | None = None
    _lock: IO[bytes] | None = None
    _stop: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> Settings:
        """Starts everything; the settings with which clients reach it.

        Raises:
            SettingsError: the machine, a port, the project file or a service does not allow a start.
        """
        data = self.settings.data.resolve()
        check_machine(data)
        self._lock = lock_folder(data)
        self.settings.connection_file.unlink(missing_ok=True)  # of one that was killed
        project = load_project(self.settings.project)
        settings = self.settings.model_copy(update={"data": data, "project": self.settings.project.resolve()})
        if settings.broker is None:
            self._kafka = EmbeddedKafka(data / "kafka", settings.broker_port, controller_port=free_port())
            await asyncio.to_thread(self._kafka.start)
            settings = settings.model_copy(update={"broker": self._kafka.address})
        if settings.database is None:
            from pydantic import SecretStr

            self._postgres = EmbeddedPostgres(data / "postgres")
            await asyncio.to_thread(self._postgres.start)
            settings = settings.model_copy(update={"database": SecretStr(self._postgres.url)})
        assert settings.broker and settings.database
        await asyncio.to_thread(migrate, settings.database.get_secret_value())
        await apply_topics(settings.broker, project.topics.values(), settings.prefix)
        await asyncio.to_thread(register_contracts, settings, project)
        await check_groups(settings.broker, _groups(settings), data, LOADING_SECONDS)
        self._started = settings
        self.start_workers(settings)
        known = {"broker": settings.broker, "registry": settings.registry, "database": settings.database.get_secret_value(), "http_port": settings.http_port, "project": str(settings.project)}
        settings.connection_file.touch(mode=0o600)
        settings.connection_file.write_text(json.dumps(known))
        return settings

    def start_workers(self, settings: Settings) -> None:
        """Starts and supervises the workers."""
        environment = os.environ | worker_environment(settings)
        logs = settings.data / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        for name in self.workers:
            self.supervised[name] = Supervised(name, environment, logs / f"{name}.log")
            self._tasks.append(asyncio.create_task(self.supervised[name].keep(self._stop)))

    async def stop(self) -> None:
        """Drains the workers, then stops the services."""
        self._stop.set()
        if self._started:
            self._started.connection_file.unlink(missing_ok=True)
        await asyncio.gather(*self._tasks)
        if self._started and self._started.broker:
            with contextlib.suppress(LoomError):  # a broker that is gone already says so at the next start
                await check_groups(self._started.broker, _groups(self._started), self._started.data)
        if self._postgres:
            await asyncio.to_thread(self._postgres.stop)
        if self._kafka:
            await asyncio.to_thread(self._kafka.stop)
        if self._lock:
            self._lock.close()


def _groups(settings: Settings) -> list[str]:
    return [f"{settings.prefix}{name}" for name in CONSUMER_GROUPS]


def register_contracts(settings: Settings, project: Project) -> list[str]:
    """Registers the contracts where a registry is named; the new subjects. Raises SettingsError when it can't."""
    if settings.registry is None:
        return []
    try:
        return Registry(settings.registry, project.topics.values(), settings.prefix).register()
    except (RegistryUnavailable, ValueError) as error:
        raise SettingsError(str(error)) from error


def worker_environment(settings: Settings) -> dict[str, str]:
    """The settings as variables, and what the libraries below must know."""
    assert settings.database is not None
    values = {
        "LOOM_PROJECT": str(settings.project), "LOOM_DATA": str(settings.data), "LOOM_BROKER": str(settings.broker), "LOOM_DATABASE": settings.database.get_secret_value(),
        "LOOM_OBJECTS": settings.objects_url, "LOOM_PREFIX": settings.prefix, "LOOM_HTTP_HOST": settings.http_host, "LOOM_HTTP_PORT": str(settings.http_port),
        "LOOM_SESSION_TIMEOUT_SECONDS": str(settings.session_timeout_seconds), "LOOM_LOG_LEVEL": settings.log_level,
        "LOOM_SUPERVISOR": str(os.getpid()),
    }  # fmt: skip
    if settings.registry:
        values["LOOM_REGISTRY"] = settings.registry
    # OpenMP threads that spin while they wait slow training and serving on the same cores fifty-fold (docs/benchmarks.md)
    values |= {name: os.environ.get(name, value) for name, value in (("GOMP_SPINCOUNT", "3000"), ("GLIBC_TUNABLES", MALLOC))}
    return values | {"DO_NOT_TRACK": "true", "SCARF_NO_ANALYTICS": "true", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}


def lock_folder(data: Path) -> IO[bytes]:
    """A lock on `data` for as long as it is open. Raises SettingsError when another stack has it."""
    lock = (data / "lock").open("wb")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise SettingsError(f"another stack runs on {data}: stop it, or set LOOM_DATA to another folder") from error
    return lock


def check_machine(data: Path) -> None:
    """Raises SettingsError when platform, disk or folder can't carry the system."""
    import platform
    import shutil

    import psutil

    if platform.system() != "Linux":
        raise SettingsError(f"{platform.system()} is not supported: use Linux, or the containers in deploy/")
    try:
        data.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise SettingsError(f"the data folder {data} can't be made: {error.strerror}: set LOOM_DATA") from error
    available = psutil.virtual_memory().available
    if available < MIN_MEMORY_BYTES:
        raise SettingsError(f"{available >> 20} MiB of memory are available, {MIN_MEMORY_BYTES >> 20} are needed: end other programs, or run workers on other machines (`loom worker`)")
    free = shutil.disk_usage(data).free
    if free < MIN_FREE_BYTES:
        raise SettingsError(f"{data} has {free >> 20} MiB free, {MIN_FREE_BYTES >> 20} MiB are needed: set LOOM_DATA to another disk")
