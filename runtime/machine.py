"""What this machine has, as far as it can be told without importing torch."""

from __future__ import annotations

import os
from pathlib import Path

NVIDIA = Path("/dev/nvidiactl")
CACHE = Path.home() / ".cache" / "loraloom"
"""What is fetched or compiled once a machine."""


def has_nvidia() -> bool:
    """Whether an NVIDIA GPU is there."""
    return NVIDIA.exists()


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))
