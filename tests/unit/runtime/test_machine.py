"""What processes that compute get of this machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from runtime import machine
from runtime.machine import COMPUTE_NICENESS, MALLOC, memory_bytes

ROOT = Path(__file__).parents[3]
LARGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")
MEBIBYTES = 64
MEASURE = f"""
import re
kept = [bytearray(b'x') * ({MEBIBYTES} << 20) for _ in range(2)]
print(re.search(r'AnonHugePages: *([0-9]+) kB', open('/proc/self/smaps_rollup').read())[1])
"""


def large_pages_kib(tunables: str) -> int:
    return int(subprocess.run([sys.executable, "-c", MEASURE], env=os.environ | {"GLIBC_TUNABLES": tunables}, capture_output=True, text=True, check=True).stdout)


def test_memory_comes_in_large_pages() -> None:
    if not LARGE_PAGES.exists() or "[madvise]" not in LARGE_PAGES.read_text():
        pytest.skip("Linux does not give large pages to who asks, and to nobody else, here")
    assert large_pages_kib("") < MEBIBYTES * 1024 < large_pages_kib(MALLOC)


def test_what_computes_is_behind_the_others_and_never_before_where_it_was() -> None:
    code = "import os; from runtime.machine import compute_behind; print(os.nice({})); compute_behind(); print(os.nice(0))"
    own = os.nice(0)
    for more in (0, 19):
        before = min(19, own + more)
        said = subprocess.run([sys.executable, "-c", code.format(more)], capture_output=True, text=True, check=True, cwd=ROOT).stdout.split()
        assert [int(number) for number in said] == [before, max(before, COMPUTE_NICENESS)]


@pytest.mark.parametrize(("file", "form"), [("Makefile", r"^export GLIBC_TUNABLES \?= (.+)$"), ("deploy/images/Dockerfile", r" GLIBC_TUNABLES=(\S+)$")])
def test_it_is_the_same_wherever_workers_begin(file: str, form: str) -> None:
    assert re.findall(form, (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE) == [MALLOC]


def test_a_container_has_no_more_memory_than_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = tmp_path / "memory.max", tmp_path / "memory.limit_in_bytes"
    monkeypatch.setattr(machine, "MEMORY_LIMITS", (first, second))
    whole = memory_bytes()
    assert whole == psutil.virtual_memory().total
    first.write_text("max\n")
    second.write_text(str(1 << 62))  # none, by cgroups v1
    assert memory_bytes() == whole
    second.write_text(f"{1 << 20}\n")
    assert memory_bytes() == 1 << 20
    first.write_text(f"{1 << 19}\n")
    assert memory_bytes() == 1 << 19
