"""vLLM's worker on a CPU, which may leave cores to others."""

from __future__ import annotations

import torch
from vllm.v1.worker.cpu_worker import CPUWorker

from inference.engines.vllm import CORES_LEFT


class Worker(CPUWorker):
    """As vLLM's, with fewer threads.

    vLLM counts and binds threads by variables that OpenMP reads as it is loaded, which in a fork it was long before.
    """

    def init_device(self) -> None:
        """What of vLLM comes first that computes."""
        super().init_device()
        torch._C.set_num_threads(max(1, torch.get_num_threads() - self.vllm_config.additional_config[CORES_LEFT]))  # vLLM puts a warning in the place of torch's own

    def threads(self) -> int:
        """How many steps have, for who asks by `collective_rpc`."""
        return int(torch.get_num_threads())
