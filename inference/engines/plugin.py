"""What loraloom changes in vLLM on a CPU, in each of its processes: vLLM calls `register` (entry point `vllm.general_plugins`), also in those of a `vllm serve` where loraloom is installed."""

from __future__ import annotations

import time
from typing import Any

BUSY_SECONDS = 1.0
BUSY_POLL_MILLISECONDS = 1


def register() -> None:
    """Takes LoRA by segments (docs/decisions/0026), and waits for messages without keeping a core busy. May be called again and again; does nothing on a GPU."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.platforms.cpu import CpuPlatform

    class Waiting(shm_broadcast.SpinCondition):
        """For a second after a message vLLM's processes try over and over whether there is another: a core each, of the few that training and the streams share with them.

        Here they are woken, and look once a millisecond meanwhile, since of two words within a millisecond the sender drops the second (its ZeroMQ queue holds one).
        """

        def __init__(self, *where: Any, **how: Any) -> None:
            super().__init__(*where, **how, busy_loop_s=0.0)

        def wait(self, timeout_ms: int | None = None) -> None:
            busy = time.monotonic() <= self.last_read + BUSY_SECONDS
            super().wait(BUSY_POLL_MILLISECONDS if busy else timeout_ms)

    if shm_broadcast.SpinCondition.__name__ != Waiting.__name__:
        shm_broadcast.SpinCondition = Waiting
    CpuPlatform.get_punica_wrapper = classmethod(lambda _: "inference.engines.punica.SegmentedLora")
