"""What this machine has, as far as it can be told without importing torch."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

NVIDIA = Path("/dev/nvidiactl")
CACHE = Path.home() / ".cache" / "loraloom"
"""What is fetched or compiled once a machine."""
COMPUTE_NICENESS = 5
"""Of the engine's processes and of runs where there is no NVIDIA GPU; who yields altogether has 19."""
MEMORY_LIMITS = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Of a container, by cgroups v2 and v1."""
MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=1073741824"
"""For a process that computes, in `GLIBC_TUNABLES` as it starts: memory in large pages, where Linux gives them to who asks, and kept for the next step (docs/decisions/0030-memory-of-processes-that-compute.md)."""


def has_nvidia() -> bool:
    """Whether an NVIDIA GPU is there."""
    return NVIDIA.exists()


def compute_behind() -> None:
    """From now on this process, and what it starts, computes behind those that ask, read and write, which need little at a time: on busy cores a request waited longer for its turn in these than they took."""
    os.setpriority(os.PRIO_PROCESS, 0, max(COMPUTE_NICENESS, os.getpriority(os.PRIO_PROCESS, 0)))


def yield_processor() -> None:
    """From now on this process, and what it starts, has what others leave of the processor.

    Linux weighs whole sessions before it weighs processes (`sched_autogroup_enabled`): a process that leads one says it for that, too.
    """
    os.nice(19)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):  # switched off, or not allowed
            Path("/proc/self/autogroup").write_text("19")


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0))


def memory_bytes() -> int:
    """What processes may use: the machine's memory, or less where their container is limited."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for file in MEMORY_LIMITS:
        with contextlib.suppress(OSError, ValueError):  # not there, or "max"
            total = min(total, int(file.read_text()))
    return total
