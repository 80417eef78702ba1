"""vLLM in this process' charge: the CPU build here, CUDA there. Adapters are swapped a request.

Names and ids are never used twice: vLLM keys its prefix cache by the adapter's name alone, so a new adapter under an
old name would answer with the old one's cache. `load_inplace` is never used.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import math
import multiprocessing
import multiprocessing.forkserver
import os
import threading
import uuid
from collections.abc import Coroutine, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil

from inference.engines import Generation, Hear
from inference.engines.fair import FairOrder
from runtime.artifacts import weight_shapes
from runtime.collector import collect_less
from runtime.errors import InvalidInput, Transient
from runtime.machine import MALLOC, has_nvidia, memory_bytes
from runtime.metrics import READ_AGAIN
from runtime.precision import is_bfloat16_faster

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import SamplingParams
    from vllm.v1.engine.async_llm import AsyncLLM

Answered = TypeVar("Answered")
CPU_CACHE_BYTES = 512 << 20
MAX_MODEL_LEN = 1024
"""Tokens of a request."""
MAX_LORAS = 8
"""Adapters in one batch on a GPU, and at least on a CPU, where what comes into a slot is copied between two steps of the others, and a slot is memory like any other."""
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
"""In a base's files; the second is not there where it is the first."""
SLOTS_SHARE = 32
"""All slots on a CPU may take one part in so many of the memory that is there."""
MAX_CPU_LORAS = 256
"""Adapters in memory: what is asked for and not there is read from disk in the middle of a batch, which waits. One of rank 16 on all modules takes 2.5 MB with the base here in float32, 84 MB with one of 8 B in bfloat16."""
ENDING_SECONDS, LOOK_SECONDS = 0.2, 1.0
CORES_LEFT = "loraloom_cores_left"
"""In vLLM's `additional_config`: what its worker on a CPU leaves (`cpu_worker.py`)."""
ENVIRONMENT = {"VLLM_NO_USAGE_STATS": "1", "VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1"}
ON_A_CPU = {"TORCHDYNAMO_DISABLE": "1", "GLIBC_TUNABLES": MALLOC}
"""vLLM compiles parts of its sampler even where it is told to be eager, by a C++ compiler, as the first answer and each new size of a batch come: 21 s, 3 s from
what an earlier engine has left, to save milliseconds. Memory is given as to all that computes (`runtime/machine.py`)."""


class VllmEngine:
    """`max_loras` adapters run in one batch, as many as `slots` says where it is None; up to `max_cpu_loras` stay loaded. `keep_stats`: vLLM keeps its own metrics, for who reads them. It takes `gpu_memory` of a GPU's memory, nine tenths where it is None, and on a CPU leaves
    `cores_left` to who reads and writes requests, if it has more."""

    def __init__(
        self, base: str, max_loras: int | None = None, max_cpu_loras: int = MAX_CPU_LORAS, max_rank: int = 16, max_model_len: int = MAX_MODEL_LEN, *, keep_stats: bool = False, gpu_memory: float | None = None, cores_left: int = 1
    ) -> None:
        self._arguments: dict[str, Any] = {
            "model": base, "enable_lora": True, "max_loras": max_loras or slots(base, max_rank, max_cpu_loras), "max_cpu_loras": max_cpu_loras, "max_lora_rank": max_rank,
            "max_model_len": max_model_len, "enforce_eager": True, "disable_log_stats": not keep_stats, "enable_log_requests": False, "scheduling_policy": "priority",
        }  # fmt: skip
        if gpu_memory is not None and has_nvidia():
            self._arguments["gpu_memory_utilization"] = gpu_memory
        self._cores_left = cores_left
        self._engine: AsyncLLM | None = None
        self._loaded: dict[str, LoRARequest] = {}
        self._pinned: set[str] = set()
        self._reading: dict[str, asyncio.Task[None]] = {}
        self._ids = itertools.count(1)
        self._order = FairOrder()
        self._cancelled = False

    async def start(self) -> None:
        """Starts the engine's process; returns when it can answer. What is cancelled leaves no process behind."""
        for name, value in (ENVIRONMENT if has_nvidia() else ENVIRONMENT | ON_A_CPU).items():
            os.environ.setdefault(name, value)
        _preload()
        await _import_vllm()
        others = _children()
        # in a thread, since heartbeats to Kafka must go on
        making = asyncio.get_running_loop().run_in_executor(None, self._make)
        try:
            engine = await asyncio.shield(making)
            await engine.check_health()
        except asyncio.CancelledError:
            self._cancelled = True
            while not making.done():  # the thread ends when its processes do
                for process in _children() - others:
                    with contextlib.suppress(psutil.NoSuchProcess):
                        process.kill()
                await asyncio.sleep(ENDING_SECONDS)
            if making.exception() is None:
                await asyncio.to_thread(making.result().shutdown)
            raise
        self._engine = engine
        collect_less()  # of what vLLM imports alone, looking at all objects takes half a second, in which nothing is answered

    def _make(self) -> AsyncLLM:
        import torch
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine import utils
        from vllm.v1.engine.async_llm import AsyncLLM

        if self._cancelled:
            raise Transient("the engine was stopped as it started")
        if torch.cuda.is_available():
            here: dict[str, Any] = {}
        else:
            here = {"kv_cache_memory_bytes": CPU_CACHE_BYTES, "worker_cls": "inference.engines.cpu_worker.Worker", "additional_config": {CORES_LEFT: self._cores_left}} | ({} if is_bfloat16_faster() else {"dtype": "float32"})
            utils.get_mp_context = lambda: multiprocessing.get_context("forkserver")
        return AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments, **here))

    @property
    def healthy(self) -> bool:
        return self._engine is not None and not self._engine.errored

    async def stop(self) -> None:
        """Ends the engine's process."""
        engine, self._engine, self._loaded, self._pinned = self._engine, None, {}, set()
        for task in self._reading.values():
            task.cancel()
        if engine is not None:
            await asyncio.to_thread(engine.shutdown)

    def has_room_beside(self) -> bool:
        import torch

        if torch.cuda.is_available():
            return False  # vLLM takes its share of the GPU's memory, nine tenths, at once
        used = 0
        for child in _children():
            with contextlib.suppress(psutil.NoSuchProcess):
                used += child.memory_full_info().pss  # forks share most of theirs
        return bool(psutil.virtual_memory().available > 1.5 * used)

    async def add(self, name: str, folder: Path) -> None:
        from vllm.lora.request import LoRARequest

        request = LoRARequest(lora_name=name, lora_int_id=next(self._ids), lora_path=str(folder))
        try:
            await self._alive(self._running.add_lora(request))
        except Transient:
            raise
        except Exception as error:
            raise InvalidInput(f"the engine can't load {name}: {error}") from error
        self._loaded[name] = request

    async def remove(self, name: str) -> None:
        request = self._loaded.pop(name, None)
        if request is None:
            return  # gone with an engine that was stopped meanwhile
        self._pinned.discard(name)
        await self._alive(self._running.remove_lora(request.lora_int_id))
        if request.lora_int_id in await self._alive(self._running.list_loras()):
            raise Transient(f"the engine still lists {name} after its removal")

    async def pin(self, name: str) -> bool:
        if name not in self._pinned and len(self._pinned) < self._arguments["max_loras"] - 1:  # the others share what is left
            request = self._loaded[name]
            await self._alive(self._running.add_lora(request))  # it may have made room for others
            await self._alive(self._running.pin_lora(request.lora_int_id))
            self._pinned.add(name)
        return name in self._pinned

    def expect(self, name: str) -> None:
        if name not in self._loaded or name in self._reading or len(self._loaded) <= self._arguments["max_cpu_loras"]:
            return
        task = self._reading[name] = asyncio.create_task(self._read(self._loaded[name]))
        task.add_done_callback(lambda _: self._reading.pop(name))

    async def _read(self, request: LoRARequest) -> None:
        """Reads an adapter into memory that is not there; what fails fails again, and is told, with the request."""
        with contextlib.suppress(Exception):
            if request.lora_int_id not in await self._running.list_loras():
                await self._running.add_lora(request)
                READ_AGAIN.inc()

    async def _alive(self, call: Coroutine[Any, Any, Answered]) -> Answered:
        """What vLLM's process answers to a call; where it dies meanwhile vLLM waits for ever. Raises Transient then."""
        from vllm.v1.engine.exceptions import EngineDeadError

        answered = asyncio.ensure_future(call)
        try:
            while not (await asyncio.wait((answered,), timeout=LOOK_SECONDS))[0]:
                if not self.healthy:
                    raise Transient("the engine died")
            return answered.result()
        except EngineDeadError as error:
            raise Transient(f"the engine died: {error}") from error
        finally:
            answered.cancel()

    def names(self) -> frozenset[str]:
        return frozenset(self._loaded)

    @property
    def client(self) -> AsyncLLM:
        """vLLM's own view of it. Raises Transient where it does not run."""
        return self._running

    @property
    def cache_tokens(self) -> int:
        """How many tokens' keys and values there is room for, as vLLM reports it."""
        cache = self._running.vllm_config.cache_config
        return int(cache.num_gpu_blocks * cache.block_size)

    @property
    def in_flight(self) -> int:
        return 0 if self._engine is None else self._engine.output_processor.get_num_unfinished_requests()

    async def generate(self, prompt: Sequence[int], adapter: str | None, grammar: str | None, max_tokens: int, hear: Hear | None = None, priority: int = 0) -> Generation:
        from vllm.sampling_params import StructuredOutputsParams

        structured = StructuredOutputsParams(grammar=grammar) if grammar else None
        output = await self._last(prompt, adapter, sampling(hear, max_tokens=max_tokens, logprobs=0, structured_outputs=structured), hear, priority)
        mean = (output.cumulative_logprob or 0.0) / max(1, len(output.token_ids))
        return Generation(output.text, len(output.token_ids), math.exp(mean))

    async def probe(self, prompt: Sequence[int], adapter: str | None) -> dict[int, float]:
        output = await self._last(prompt, adapter, sampling(max_tokens=1, logprobs=10))
        return {token: entry.logprob for token, entry in output.logprobs[0].items()}

    @property
    def _running(self) -> AsyncLLM:
        if self._engine is None:
            raise Transient("the engine is not running")
        return self._engine

    async def _last(self, prompt: Sequence[int], adapter: str | None, wanted: SamplingParams, hear: Hear | None = None, priority: int = 0) -> Any:
        """The finished output of one request; `hear` is told each piece of its text."""
        from vllm.exceptions import VLLMClientError
        from vllm.inputs import TokensPrompt
        from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

        if adapter and adapter not in self._loaded:
            raise InvalidInput(f"the engine has not loaded {adapter}")
        lora = self._loaded[adapter] if adapter else None
        last, told = None, 0
        turn = self._order.enter(adapter, len(prompt) + (wanted.max_tokens or 0), priority)
        try:
            async for output in self._running.generate(TokensPrompt(prompt_token_ids=list(prompt)), wanted, uuid.uuid4().hex, lora_request=lora, priority=turn):
                last = output
                text = output.outputs[0].text
                if hear and len(text) > told:
                    hear(text[told:])
                    told = len(text)
        except EngineDeadError as error:
            raise Transient(f"the engine died: {error}") from error
        except EngineGenerateError as error:  # around anything that failed on the way to the engine
            if isinstance(error.__cause__, ValueError):  # a grammar that is none, for one
                raise InvalidInput(f"the engine refuses the request: {error.__cause__}") from error
            raise Transient(f"the engine failed at a request: {error.__cause__ or error}") from error
        except (VLLMClientError, ValueError) as error:
            raise InvalidInput(f"the engine refuses the request: {error}") from error
        finally:
            self._order.leave(turn)
        if last is None:
            raise Transient("the engine gave no output")
        return last.outputs[0]


def sampling(hear: Hear | None = None, **parameters: Any) -> SamplingParams:
    """The likeliest tokens. Where nobody hears, vLLM wakes this process with the last of them and not with each; and it need not copy what is of one request alone."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams

    return SamplingParams(temperature=0.0, output_kind=RequestOutputKind.CUMULATIVE if hear else RequestOutputKind.FINAL_ONLY, skip_clone=True, **parameters)


def slots(base: str, rank: int, most: int = MAX_CPU_LORAS) -> int:
    """How many adapters of the base in folder `base` one batch may have: as many as `most` that stay loaded, where there is memory for them."""
    shapes = None if has_nvidia() else weight_shapes(Path(base))
    if shapes is None:
        return min(most, MAX_LORAS)
    matrices = {name: sum(shape) for name, shape in shapes.items() if len(shape) == 2}
    # vLLM has matrices for the embedding and the head too, also where these are one
    widths = sum(matrices.values()) + (0 if HEAD in matrices else matrices.get(EMBEDDING, 0))
    return min(most, max(MAX_LORAS, memory_bytes() // SLOTS_SHARE // (4 * rank * widths)))


def _preload() -> None:
    """On a machine without an NVIDIA GPU, starts the server that the engine's processes are forks of: it imports vLLM as this process does."""
    if not has_nvidia():
        multiprocessing.set_forkserver_preload(["inference.engines.preload"])
        multiprocessing.forkserver.ensure_running()


async def _import_vllm() -> None:
    """Imports what an engine needs, in a thread that nobody waits for: 14 s of a core, a minute where others are busy, in which a worker may be told to stop."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def work() -> None:
        try:
            import vllm.v1.engine.async_llm  # noqa: F401
        finally:  # what failed fails again, and is raised, where the engine is made
            with contextlib.suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=work, name="import-vllm", daemon=True).start()
    await ended.wait()


def _children() -> set[psutil.Process]:
    """The processes below this one."""
    return set(psutil.Process().children(recursive=True))
