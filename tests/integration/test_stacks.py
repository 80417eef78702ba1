"""Stacks beside each other and on services that are there already; groups that lost their offsets."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import psutil
import pytest

from loom.embedded.kafka import free_port
from loom.offsets import known_groups
from schemas.events import Revision
from tests.support.live import EXAMPLE, ROOT, Live, running

pytestmark = pytest.mark.timeout(300)
DOCUMENTS = EXAMPLE.parent / "docs"


def published(system: Live, document: str) -> set[str]:
    """The doc ids that arrive after `document` was published."""
    assert system.loom("publish", str(DOCUMENTS / document)).returncode == 0
    system.until(lambda: f"docs/{document}" in {r.doc_id for r in system.read("revisions", Revision)}, 60, "a revision")
    return {r.doc_id for r in system.read("revisions", Revision)}


def test_two_stacks_side_by_side_and_a_third_on_their_services() -> None:
    with running(EXAMPLE) as first, running(EXAMPLE) as second:
        assert published(first, "hub.md") == {"docs/hub.md"}
        assert published(second, "locks.md") == {"docs/locks.md"}
        refused = first.loom("up")
        assert (refused.returncode, "another stack runs on" in refused.stderr) == (2, True), refused.stderr
        known = json.loads((first.data / "connection.json").read_text())
        other = urlunsplit(urlsplit(known["database"])._replace(path="/third"))

        async def make_database() -> None:
            connection = await asyncpg.connect(known["database"])
            await connection.execute("CREATE DATABASE third")
            await connection.close()

        asyncio.run(make_database())
        folder = Path(tempfile.mkdtemp(prefix="loom-test-"))
        environment = first.environment | {"LOOM_PREFIX": "third.", "LOOM_DATA": str(folder), "LOOM_HTTP_PORT": str(free_port())}
        third = subprocess.Popen([sys.executable, "-m", "loom", "up", "--broker", known["broker"], "--database", other], env=environment, cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            first.until(lambda: (folder / "connection.json").exists() and (folder / "connection.json").read_text(), 60, "the third stack")
            done = subprocess.run([sys.executable, "-m", "loom", "publish", str(DOCUMENTS / "energy.md")], env=environment, cwd=ROOT, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
            first.until(lambda: first.read("third.revisions", Revision), 60, "a revision of the third stack")
            assert {r.doc_id for r in first.read("third.revisions", Revision)} == {"docs/energy.md"}
            assert {r.doc_id for r in first.read("revisions", Revision)} == {"docs/hub.md"}
        finally:
            third.send_signal(signal.SIGINT)
            assert third.wait(60) == 0


def test_a_group_that_lost_its_offsets_is_an_error() -> None:
    with running(EXAMPLE) as system:
        published(system, "hub.md")
        assert system.stop() == 0
        assert "chunk" in known_groups(system.data)
        shutil.rmtree(system.data / "kafka")
        failed = system.loom("up")
        assert failed.returncode == 2
        assert "has lost the offsets of chunk" in failed.stderr


def test_what_a_killed_loom_up_leaves_ends_by_itself_and_the_next_one_goes_on() -> None:
    with running(EXAMPLE) as system:
        published(system, "hub.md")
        workers = [child for child in psutil.Process(system.process.pid).children() if "worker" in child.cmdline()]
        assert len(workers) == 7
        system.process.kill()
        system.process.wait()
        _, alive = psutil.wait_procs(workers, timeout=40)
        assert [process.cmdline() for process in alive] == []
        system.start()
        assert published(system, "locks.md") == {"docs/hub.md", "docs/locks.md"}
