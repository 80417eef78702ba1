"""Imported once, by the server that the engine's processes are forks of (`multiprocessing.forkserver`), on a CPU.

vLLM and torch take 14 s of a core to import, and vLLM on a CPU spawns two processes behind one another, each of which would. Nothing here may start
threads of OpenMP or touch a model.
"""

from __future__ import annotations

import multiprocessing
import time
from typing import Any

import vllm.model_executor.models.llama
import vllm.v1.engine.core
import vllm.v1.worker.cpu_model_runner
import vllm.v1.worker.cpu_worker  # noqa: F401
from vllm.distributed.device_communicators import shm_broadcast
from vllm.platforms.cpu import CpuPlatform
from vllm.v1.executor import multiproc_executor

from inference.engines import punica

BUSY_SECONDS = 1.0
BUSY_POLL_MILLISECONDS = 1


class _Waiting(shm_broadcast.SpinCondition):
    """For a second after a message vLLM's processes try over and over whether there is another: a core each, of the few that training and the streams share with them.

    Here they are woken, and look once a millisecond meanwhile, since of two words within a millisecond the sender drops the second (its ZeroMQ queue holds one).
    """

    def __init__(self, *where: Any, **how: Any) -> None:
        super().__init__(*where, **how, busy_loop_s=0.0)

    def wait(self, timeout_ms: int | None = None) -> None:
        busy = time.monotonic() <= self.last_read + BUSY_SECONDS
        super().wait(BUSY_POLL_MILLISECONDS if busy else timeout_ms)


shm_broadcast.SpinCondition = _Waiting
multiproc_executor.get_mp_context = lambda: multiprocessing.get_context("fork")
CpuPlatform.get_punica_wrapper = classmethod(lambda _: f"{punica.__name__}.{punica.SegmentedLora.__name__}")
