"""vLLM's worker on a CPU, whose steps have as many threads as takes least."""

from __future__ import annotations

import time
from typing import Any

import torch
from vllm.v1.worker.cpu_worker import CPUWorker

from inference.engines.threads import Threads


class Worker(CPUWorker):
    """As vLLM's, on as many threads as each step is to have."""

    def compile_or_warm_up_model(self) -> Any:
        """The last that vLLM does before the first step."""
        made = super().compile_or_warm_up_model()
        self._threads = Threads(torch.get_num_threads())
        return made

    def threads_of_steps(self) -> dict[int, int]:
        """What is known so far, for who asks by `collective_rpc`."""
        return self._threads.known()

    def execute_model(self, scheduler_output: Any) -> Any:
        """A step."""
        tokens = scheduler_output.total_num_scheduled_tokens
        if not tokens or self._threads.most == 1:
            return super().execute_model(scheduler_output)
        threads = self._threads.of(tokens)
        torch._C.set_num_threads(threads)  # vLLM puts a warning in the place of torch's own; threads stay where it has bound them
        began = time.perf_counter()
        made = super().execute_model(scheduler_output)
        self._threads.took(tokens, threads, time.perf_counter() - began)
        return made
