"""The embedded broker: how it starts soon, and for the first time."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil

from loom.embedded.kafka import EmbeddedKafka, free_port, jars
from runtime.machine import CACHE


def test_a_broker_starts_from_the_classes_that_the_first_one_left_and_without_them_where_they_are_torn(tmp_path: Path) -> None:
    shutil.copytree(jars(CACHE), tmp_path / jars(CACHE).name, ignore=shutil.ignore_patterns("*.aot*"))

    def started(folder: str) -> tuple[list[str], str]:
        broker = EmbeddedKafka(tmp_path / folder, free_port(), cache=tmp_path)
        broker.start()
        said = psutil.Process(broker.pid).cmdline(), Path(f"/proc/{broker.pid}/maps").read_text()
        broker.stop()
        return said

    command, _ = started("first")
    assert not [word for word in command if word.startswith("-XX:AOTCache=")]
    (left,) = (tmp_path / jars(CACHE).name).glob("*.aot*")
    command, mapped = started("second")
    assert f"-XX:AOTCache={left}" in command
    assert str(left) in mapped
    left.write_bytes(b"torn")
    _, mapped = started("third")
    assert str(left) not in mapped


def test_two_processes_that_are_first_on_a_machine_fetch_the_jars_once(tmp_path: Path) -> None:
    fetch = f"from pathlib import Path; from loom.embedded.kafka import jars; print([(jar.name, jar.stat().st_mtime_ns) for jar in sorted(jars(Path({str(tmp_path)!r})).glob('*.jar'))])"
    first, second = (subprocess.Popen([sys.executable, "-c", fetch], stdout=subprocess.PIPE, text=True) for _ in range(2))
    (found, _), (again, _) = first.communicate(), second.communicate()
    assert "kafka-server" in found
    assert found == again
