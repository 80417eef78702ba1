"""How long the command takes to answer, by the wall clock: not beside other tests, as the units run."""

from __future__ import annotations

import subprocess
import sys
import time


def test_help_comes_at_once() -> None:
    """The fastest of some, since other processes use the cores too."""
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        subprocess.run([sys.executable, "-m", "loom", "--help"], check=True, capture_output=True)
        seconds.append(time.monotonic() - began)
    assert min(seconds) < 0.5
