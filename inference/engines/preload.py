"""Imported once, by the server that the engine's processes are forks of (`multiprocessing.forkserver`), on a CPU.

vLLM and torch take 14 s of a core to import, and vLLM on a CPU spawns two processes behind one another, each of which would. Nothing here may start
threads of OpenMP or touch a model.
"""

from __future__ import annotations

import multiprocessing

import vllm.model_executor.models.llama
import vllm.v1.engine.core  # noqa: F401
from vllm.v1.executor import multiproc_executor

from inference.engines import cpu_worker, plugin, punica  # noqa: F401
from runtime.machine import compute_behind

multiproc_executor.get_mp_context = lambda: multiprocessing.get_context("fork")
plugin.register()
compute_behind()
