"""`loom publish --watch` as a process, on a real broker."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from loom.embedded.kafka import EmbeddedKafka
from runtime.kafka import apply_topics
from runtime.project import load_project
from schemas.codec import Codec
from schemas.events import Document
from tests.support.kafka import read_all
from tests.support.live import EXAMPLE, ROOT

CODEC = Codec()


def test_a_watched_folder_is_followed(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    asyncio.run(apply_topics(kafka.address, load_project(EXAMPLE).topics.values(), "watch."))
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("# One")

    def seen() -> list[tuple[str, bytes | None]]:
        found = sorted((CODEC.decode(Document, r.value) for r in asyncio.run(read_all(kafka.address, "watch.documents"))), key=lambda d: d.revision)
        return [(d.doc_id, None if d.deleted else d.content) for d in found]

    def until(done: Callable[[], bool]) -> None:
        end = time.monotonic() + 30
        while not done():
            assert time.monotonic() < end, (seen(), publisher.poll())
            time.sleep(0.3)

    environment = os.environ | {"LOOM_PREFIX": "watch.", "LOOM_DATA": str(tmp_path / "data"), "LOOM_PROJECT": str(EXAMPLE), "LOOM_BROKER": kafka.address}
    publisher = subprocess.Popen([sys.executable, "-m", "loom", "publish", str(folder), "--watch"], env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    try:
        assert publisher.stderr is not None
        assert "watching" in publisher.stderr.readline()
        time.sleep(1)
        (folder / "a.md").write_text("# Two")
        until(lambda: ("docs/a.md", b"# Two") in seen())
        (folder / "deep").mkdir()
        (folder / "deep" / "b.txt").write_text("three")
        (folder / ".hidden.md").write_text("no")
        until(lambda: ("docs/deep/b.txt", b"three") in seen())
        (folder / "a.md").unlink()
        until(lambda: ("docs/a.md", None) in seen())
    finally:
        publisher.send_signal(signal.SIGINT)
        ended = publisher.wait(20)
    assert ended == 0
    assert seen()[0] == ("docs/a.md", b"# One")
    assert all(".hidden" not in doc_id for doc_id, _ in seen())


@pytest.mark.parametrize("name", ["nowhere", "*.none"])
def test_nothing_to_publish_is_a_clear_error(kafka: EmbeddedKafka, name: str) -> None:
    done = subprocess.run([sys.executable, "-m", "loom", "publish", name, "--broker", kafka.address], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, f"nothing to publish at {name}" in done.stderr) == (2, True), done.stderr
