"""What loraloom changes in vLLM on a CPU, in each of its processes: vLLM calls `register` (entry point `vllm.general_plugins`), also in those of a `vllm serve` where loraloom is installed."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent import futures
from typing import Any

BUSY_SECONDS = 1.0
BUSY_POLL_MILLISECONDS = 1
GRAMMAR_SECONDS = 0.02
"""A request waits for its grammar before the engine's loop has it: that of a message takes 2 ms, a client's JSON Schema may take seconds."""


def register() -> None:
    """Takes LoRA by segments (docs/decisions/0026), asks for adapters without listing them all, waits for messages without keeping a core busy, and has grammars compiled by one thread before a request comes. May be called again and again; does nothing on a GPU."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.structured_output import StructuredOutputManager, backend_xgrammar

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
    if not hasattr(LRUCacheWorkerLoRAManager.add_adapter, "__wrapped__"):
        LRUCacheWorkerLoRAManager.add_adapter = _unlisted(LRUCacheWorkerLoRAManager.add_adapter)
    if not hasattr(StructuredOutputManager.grammar_init, "__wrapped__"):
        StructuredOutputManager.grammar_init = _promptly(StructuredOutputManager.grammar_init)
        backend_xgrammar.xgr.GrammarCompiler = _by_one_thread(backend_xgrammar.xgr.GrammarCompiler)


def _unlisted(add_adapter: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    """In each step vLLM asks for each adapter of the batch whether it is there, by a list of all that are: 60 us and more where 256 are."""

    @functools.wraps(add_adapter)
    def add(self: Any, request: Any) -> bool:
        if request.load_inplace or self._adapter_manager.get_adapter(request.lora_int_id) is None:
            return add_adapter(self, request)
        self._adapter_manager.activate_adapter(request.lora_int_id)
        return True

    return add


def _promptly(grammar_init: Callable[[Any, Any], None]) -> Callable[[Any, Any], None]:
    """While a grammar is compiled vLLM's loop takes step after step without a token, each of which goes to its worker and back, and the request waits for the one that has begun."""

    @functools.wraps(grammar_init)
    def init(self: Any, request: Any) -> None:
        grammar_init(self, request)
        asked = request.structured_output_request
        if asked is not None and isinstance(asked._grammar, futures.Future):
            futures.wait([asked._grammar], GRAMMAR_SECONDS)

    return init


def _by_one_thread(compiler: type) -> type:
    """vLLM asks for eight, which XGrammar starts anew for each grammar: on a core or two that takes longer than the grammar of a message does."""

    class OneThread(compiler):
        def __init__(self, *what: Any, **how: Any) -> None:
            super().__init__(*what, **how | {"max_threads": 1})

    return OneThread
