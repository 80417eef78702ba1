"""A whole system, started by its command, for tests of the loop."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from loom.client import Answered, Client
from loom.embedded.kafka import free_port
from runtime.kafka import Outgoing
from runtime.objects import Objects
from runtime.project import Project, load_project
from schemas.codec import Codec
from schemas.events import Label, RunStatus, RunTrigger, TrainingRun
from tests.support.kafka import publish, read_all

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples/pebblewire/loom.toml"
CODEC = Codec()


class Live:
    """A running system with trained adapters, driven through its command and its clients."""

    def __init__(self, data: Path, project: Path) -> None:
        self.data = data
        self.environment = os.environ | {"LOOM_PROJECT": str(project), "LOOM_DATA": str(data), "LOOM_BROKER_PORT": str(free_port()), "LOOM_HTTP_PORT": str(free_port())}
        self.url = f"http://127.0.0.1:{self.environment['LOOM_HTTP_PORT']}"
        self.project: Project = load_project(project)
        self._log = (data.parent / "up.log").open("w")
        self.start()

    def start(self) -> None:
        (self.data / "connection.json").unlink(missing_ok=True)
        self.process = subprocess.Popen([sys.executable, "-m", "loom", "up"], env=self.environment, cwd=ROOT, stdout=self._log, stderr=self._log)
        self.until(lambda: (self.data / "connection.json").exists() and (self.data / "connection.json").read_text(), 120, "loom up to start")
        self.broker: str = json.loads((self.data / "connection.json").read_text())["broker"]

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(120)

    def loom(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-m", "loom", *arguments], env=self.environment, cwd=ROOT, capture_output=True, text=True, check=False)

    def until_live(self, adapters: set[str], seconds: float) -> None:
        def live() -> bool:
            lost = [run for run in self.read("training-runs", TrainingRun) if run.adapter in adapters and run.status in (RunStatus.REJECTED, RunStatus.FAILED)]
            assert not lost, f"{lost[0].adapter}: {lost[0].reason}"
            return adapters <= self.serving()

        self.until(live, seconds, f"{adapters} to go live")

    def until_requested(self, adapter: str, trigger: RunTrigger) -> TrainingRun:
        """The run of an adapter that was started so."""
        found: list[TrainingRun] = []

        def requested() -> bool:
            found.extend(run for run in self.read("training-runs", TrainingRun) if run.adapter == adapter and run.trigger is trigger)
            return bool(found)

        self.until(requested, 60, f"a run of {adapter} by {trigger}")
        return found[0]

    def until_serving(self, adapter: str, version: int | None) -> None:
        self.until(lambda: self.engine_names().get(adapter, f"{adapter}@None-").startswith(f"{adapter}@{version}-"), 60, f"{adapter}@{version} to serve")

    def serving(self) -> set[str]:
        return set(self.engine_names())

    def engine_names(self) -> dict[str, str]:
        """What serves, by adapter."""
        try:
            names: dict[str, str] = httpx.get(f"{self.url}/readyz").json()["adapters"]
        except httpx.TransportError:
            return {}
        return names

    def ask(self, text: str, adapter_id: str | None = None) -> Answered:
        async def run() -> Answered:
            async with Client(self.project, self.broker, Objects((self.data / "objects").as_uri())) as client:
                return await client.ask(text, {"user_id": "current"}, adapter_id, timeout_seconds=90)

        return asyncio.run(run())

    def read(self, topic: str, kind: type) -> list[Any]:
        return [CODEC.decode(kind, r.value) for r in asyncio.run(read_all(self.broker, topic))]

    def send(self, topic: str, key: bytes, value: bytes) -> None:
        asyncio.run(publish(self.broker, [Outgoing(topic, key, value)]))

    def worker_pid(self, name: str) -> int:
        import psutil

        children = psutil.Process(self.process.pid).children(recursive=True)
        return int(next(c.pid for c in children if c.cmdline()[-2:] == ["worker", name]))

    def until(self, done: Callable[[], Any], seconds: float, what: str) -> None:
        """Waits; what does not come is told with the last words of every worker."""
        end = time.monotonic() + seconds
        while not done():
            if time.monotonic() > end or self.process.poll() is not None:
                logs = "\n".join(f"--- {p.name}\n{p.read_text(errors='replace')[-2500:]}" for p in [Path(self._log.name), *sorted((self.data / "logs").glob("*.log"))])
                raise AssertionError(f"waited {seconds:.0f} s for {what}\n{logs}")
            time.sleep(1)

    def publish_labels(self, labels: Iterable[Label]) -> None:
        async def run() -> None:
            async with Client(self.project, self.broker, Objects((self.data / "objects").as_uri())) as client:
                await client.publish_labels(labels)

        asyncio.run(run())


@contextmanager
def running(project: Path) -> Iterator[Live]:
    """A system on a fresh data folder, stopped and swept at the end."""
    # not below pytest's own folder: each start of pytest closes that to other users, and PostgreSQL runs as one under root
    folder = Path(tempfile.mkdtemp(prefix="loom-test-"))
    system = Live(folder / "data", project)
    try:
        yield system
    finally:
        if system.process.poll() is None:
            system.stop()
        shutil.rmtree(folder, ignore_errors=True)
