"""One way to serve, in a process of its own, so that ways can take turns: ours, vLLM as it comes, PEFT's adapters one request after the other, a batch of Transformers.

    python -m loom.bench.engine_side KIND BASE ADAPTERS COUNT

loads `COUNT` adapters from folders `0`, `1`, … of ADAPTERS, says so in a line of JSON with the seconds that starting took, and carries out the loads that come as lines.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from inference.engines.vllm import CPU_CACHE_BYTES, VllmEngine, sampling
from loom.bench.compare import BenchmarkFailed, all_of
from runtime.collector import collect_less

FIRST_TOKEN, LAST_TOKEN = 5, 4000
MARK = "@side "
"""Begins the lines that are for the benchmark: libraries print others."""


@dataclass(frozen=True, slots=True)
class Load:
    """Requests of one round: how many, how many at once, tokens of a prompt, the lengths of answers by turns, and over how many adapters by turns; 0 is the base alone."""

    requests: int
    at_once: int
    prompt_tokens: int
    answer_tokens: tuple[int, ...]
    adapters: int
    seed: int = 0

    def prompts(self) -> list[list[int]]:
        """No two alike, from round to round neither."""
        chance = random.Random(self.seed)
        return [[chance.randrange(FIRST_TOKEN, LAST_TOKEN) for _ in range(self.prompt_tokens)] for _ in range(self.requests)]

    def lengths(self) -> list[int]:
        return [self.answer_tokens[i % len(self.answer_tokens)] for i in range(self.requests)]

    def names(self) -> list[str | None]:
        return [f"a{i % self.adapters}@1-aaaaaaaa" if self.adapters else None for i in range(self.requests)]


class _Side(Protocol):
    def carry_out(self, load: Load) -> None: ...


class Ours(VllmEngine):
    """Our engine."""

    async def fill(self, prompt: Sequence[int], adapter: str | None, tokens: int) -> None:
        """Answers with just so many tokens."""
        await self._last(prompt, adapter, sampling(max_tokens=tokens, ignore_eos=True))


class Stock(Ours):
    """vLLM as it comes, with the settings and the cores that ours has."""

    async def start(self) -> None:
        os.environ |= {"VLLM_NO_USAGE_STATS": "1", "VLLM_CPU_NUM_OF_RESERVED_CPU": "0", "VLLM_LOGGING_LEVEL": "WARNING", "HF_HUB_OFFLINE": "1", "VLLM_PLUGINS": ""}
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        engine = await asyncio.to_thread(lambda: AsyncLLM.from_engine_args(AsyncEngineArgs(**self._arguments, kv_cache_memory_bytes=CPU_CACHE_BYTES)))
        await engine.check_health()
        self._engine = engine
        collect_less()  # as its own server does

    async def fill(self, prompt: Sequence[int], adapter: str | None, tokens: int) -> None:
        from vllm.sampling_params import SamplingParams

        await self._last(prompt, adapter, SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True))


class _Engine:
    """An engine of vLLM."""

    def __init__(self, base: str, adapters: Path, count: int, make: type[Ours]) -> None:
        self._loop = asyncio.new_event_loop()
        self._engine = make(base, cores_left=0)
        self._loop.run_until_complete(self._start(adapters, count))

    async def _start(self, adapters: Path, count: int) -> None:
        await self._engine.start()
        for i in range(count):
            await self._engine.add(f"a{i}@1-aaaaaaaa", adapters / str(i))

    def carry_out(self, load: Load) -> None:
        self._loop.run_until_complete(self._carry_out(load))

    async def _carry_out(self, load: Load) -> None:
        await all_of((self._engine.fill(*request) for request in zip(load.prompts(), load.names(), load.lengths(), strict=True)), load.at_once)


class _Peft:
    """PEFT: an adapter is set, a request answered, the next one set."""

    def __init__(self, base: str, adapters: Path, count: int) -> None:
        from peft import PeftModel

        self._model: Any = _transformer(base)
        for i in range(count):
            name = f"a{i}@1-aaaaaaaa"
            if i:
                self._model.load_adapter(str(adapters / str(i)), name)
            else:
                self._model = PeftModel.from_pretrained(self._model, str(adapters / "0"), adapter_name=name)
        self._model.eval()

    def carry_out(self, load: Load) -> None:
        for prompt, name, length in zip(load.prompts(), load.names(), load.lengths(), strict=True):
            self._model.set_adapter(name)
            _generate(self._model, [prompt], length)


class _Batch:
    """Transformers: as many requests as are at once are a batch, which ends with its longest answer."""

    def __init__(self, base: str) -> None:
        self._model = _transformer(base)

    def carry_out(self, load: Load) -> None:
        prompts, lengths = load.prompts(), load.lengths()
        for at in range(0, load.requests, load.at_once):
            _generate(self._model, prompts[at : at + load.at_once], max(lengths[at : at + load.at_once]))


def _transformer(base: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from runtime.precision import is_bfloat16_faster

    return AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16 if is_bfloat16_faster() else torch.float32).eval()


def _generate(model: Any, prompts: Sequence[Sequence[int]], length: int) -> None:
    import torch

    ids = torch.tensor(prompts)
    with torch.inference_mode():
        model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=False, min_new_tokens=length, max_new_tokens=length, pad_token_id=0)


def _side(kind: str, base: str, adapters: Path, count: int) -> _Side:
    if kind == "peft":
        return _Peft(base, adapters, count)
    if kind == "batch":
        return _Batch(base)
    return _Engine(base, adapters, count, Stock if kind == "stock" else Ours)


class Process:
    """A side's process, as the benchmark sees it. `started_seconds` is from the command to where it can answer, the loading of adapters included."""

    def __init__(self, kind: str, base: str, adapters: Path, count: int) -> None:
        began = time.perf_counter()
        self._kind = kind
        self._process = subprocess.Popen([sys.executable, "-W", "ignore", "-m", "loom.bench.engine_side", kind, base, str(adapters), str(count)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        self._hear()
        self.started_seconds = time.perf_counter() - began

    def seconds(self, load: Load) -> float:
        """How long it takes for `load`."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(asdict(load)) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise BenchmarkFailed(f"{self._kind} ended: run `python -m loom.bench.engine_side {self._kind} …` by hand to see why") from error
        return float(self._hear()["seconds"])

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith(MARK):
                found: dict[str, Any] = json.loads(line.removeprefix(MARK))
                return found
        raise BenchmarkFailed(f"{self._kind} ended: run `python -m loom.bench.engine_side {self._kind} …` by hand to see why")

    def stop(self) -> None:
        """Ends the process, and what it started."""
        import psutil

        below = psutil.Process(self._process.pid).children(recursive=True) if self._process.poll() is None else []
        for process in (*below, self._process):
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        self._process.wait()


@contextmanager
def side(kind: str, base: str, adapters: Path, count: int) -> Iterator[Process]:
    """A started side, stopped at the end."""
    process = Process(kind, base, adapters, count)
    try:
        yield process
    finally:
        process.stop()


def main(kind: str, base: str, adapters: str, count: str) -> None:
    """Carries out loads until its input ends."""
    made = _side(kind, base, Path(adapters), int(count))
    print(MARK + json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        given = json.loads(line)
        load = Load(**{**given, "answer_tokens": tuple(given["answer_tokens"])})
        began = time.perf_counter()
        made.carry_out(load)
        print(MARK + json.dumps({"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
