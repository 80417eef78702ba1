"""Whether memory was short: what an error says, and what the kernel has ended."""

from __future__ import annotations

import re
import signal
from pathlib import Path

SHORT = ("Cannot allocate memory", "could not create a primitive")
"""What the system and oneDNN say where accelerate's list ends."""
VMSTAT = Path("/proc/vmstat")


def is_out_of_memory(error: Exception) -> bool:
    """Whether `error` is that of an allocation that failed, on a CPU or a GPU."""
    from accelerate.utils.memory import should_reduce_batch_size

    return isinstance(error, MemoryError) or bool(should_reduce_batch_size(error)) or any(words in str(error) for words in SHORT)


def kernel_kills(vmstat: Path = VMSTAT) -> int | None:
    """How many processes the kernel has ended for their memory since it started; None where it does not tell. Source: proc_vmstat(5), oom_kill."""
    try:
        found = re.search(r"^oom_kill (\d+)$", vmstat.read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) if found else None


def was_ended_for_memory(exit_code: int, kills_before: int | None, kills_after: int | None) -> bool:
    """Whether a process that ended with `exit_code`, below zero for a signal, took too much: it was killed, and the kernel did so or does not tell."""
    return exit_code == -signal.SIGKILL and (kills_before is None or kills_before != kills_after)
