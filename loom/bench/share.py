"""`loom bench share`: what answers take while a training goes on beside them: as it comes, split, and asleep whenever somebody asks; and what the training has of the processor meanwhile."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import random
import statistics
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

import psutil

from inference.engines.vllm import VllmEngine
from loom.bench.compare import BenchmarkFailed, Row, all_of, arrivals
from loom.bench.engine_side import FIRST_TOKEN, LAST_TOKEN
from loom.bench.random_models import random_adapter
from runtime.machine import yield_processor
from runtime.project import Gpu, Recipe
from runtime.pulse import PulseWriter
from trainers import sft
from trainers.conditions import Conditions
from trainers.pacing import Pacer, pause, resume
from trainers.run import end_with_parent
from trainers.worker import PACE_SECONDS

PROMPT_TOKENS, ANSWER_TOKENS, AT_ONCE = 64, 8, 32
LOAD = 0.25
"""Of what the engine alone answers a second."""
OVER_ALONE = 1.5
"""What answers may take at the 99th percentile beside a training, over what they take alone: the bound at which it stops."""
ROWS, ROW_TOKENS = 512, 120
IMPORT_SECONDS = 30.0
"""Of the processor, which a process takes to import what a training needs, and to begin it."""
WARM_SECONDS = 3.0
"""Until a training that goes on again has its caches."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Seconds that each way is measured for, in so many rounds; requests by which the engine's own pace is measured."""

    seconds: float
    rounds: int
    pressed: int


WHOLE, QUICK = Counts(20.0, 5, 400), Counts(6.0, 1, 80)


def _train(base: str, folder: str, polite: bool) -> None:
    """Trains on random rows until it is killed."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    os.setsid()
    if polite:
        yield_processor()
    chance = random.Random(0)
    rows = [tuple([chance.randrange(FIRST_TOKEN, LAST_TOKEN) for _ in range(count)] for count in (ROW_TOKENS, 8)) for _ in range(ROWS)]
    sft.train(base, rows, Recipe(max_steps=10**6, epochs=1e6, batch_size=16), Path(folder), lambda _: None, Conditions())  # type: ignore[arg-type]


@contextmanager
def _training(base: str, folder: Path, polite: bool) -> Iterator[BaseProcess]:
    """A training's process, which has begun and is stopped."""
    process = multiprocessing.get_context("spawn").Process(target=_train, args=(base, str(folder), polite), daemon=True)
    process.start()
    try:
        while _spent(process) < IMPORT_SECONDS:
            time.sleep(0.5)
        pause(process.pid or 0)
        yield process
    finally:
        resume(process.pid or 0)
        process.kill()
        process.join()


def _spent(process: BaseProcess) -> float:
    """Seconds of the processor that it has had. Raises BenchmarkFailed where it has ended."""
    if process.exitcode is not None:
        raise BenchmarkFailed(f"the training ended with {process.exitcode}")
    times = psutil.Process(process.pid).cpu_times()
    return float(times.user + times.system)


@dataclass(slots=True)
class Bench:
    """An engine with an adapter."""

    engine: VllmEngine
    name: str
    chance: random.Random

    async def ask(self) -> float:
        """Seconds of an answer."""
        began = time.perf_counter()
        await self.engine.generate([self.chance.randrange(FIRST_TOKEN, LAST_TOKEN) for _ in range(PROMPT_TOKENS)], self.name, None, ANSWER_TOKENS)
        return time.perf_counter() - began

    async def capacity(self, count: int) -> float:
        """Answers a second, many at once."""
        began = time.perf_counter()
        await all_of((self.ask() for _ in range(count)), AT_ONCE)
        return count / (time.perf_counter() - began)

    async def paced(self, rate: float, seconds: float, pulse: PulseWriter | None = None) -> list[float]:
        """Milliseconds of answers that are asked for at random, so many a second."""
        times, running = list[float](), set[asyncio.Task[None]]()

        async def one() -> None:
            if pulse is None:
                times.append(await self.ask() * 1000)
                return
            with pulse.answering():
                times.append(await self.ask() * 1000)

        async for _ in arrivals(max(20, int(rate * seconds)), rate, self.chance):
            task = asyncio.create_task(one())
            running.add(task)
            task.add_done_callback(running.discard)
        await asyncio.gather(*running)
        return times


@asynccontextmanager
async def _pacing(gpu: Gpu, pulse: PulseWriter, pid: int) -> AsyncIterator[None]:
    """Stops the training as a trainer does."""

    async def pace() -> None:
        pacer, stopped = Pacer(gpu), False
        while True:
            waits = pacer.stop(pulse.pulse(), time.time()) is not None
            if waits != stopped:
                (pause if waits else resume)(pid)
                stopped = waits
            await asyncio.sleep(PACE_SECONDS)

    pacing = asyncio.create_task(pace())
    try:
        yield
    finally:
        pacing.cancel()
        await asyncio.wait([pacing])


async def share_rows(base: str, quick: bool) -> Sequence[Row]:
    """The rows of the benchmark. Raises BenchmarkFailed where a training ends."""
    counts = QUICK if quick else WHOLE
    with tempfile.TemporaryDirectory(prefix="loom-bench-") as name:
        folder = Path(name)
        with _training(base, folder / "plain", False) as plain, _training(base, folder / "polite", True) as polite:
            engine = VllmEngine(base)
            await engine.start()
            try:
                await engine.add("mood@1-0123abcd", random_adapter(base, folder / "adapter", 1))
                return await _measured(Bench(engine, "mood@1-0123abcd", random.Random(0)), plain, polite, folder, counts)
            finally:
                await engine.stop()


async def _measured(bench: Bench, plain: BaseProcess, polite: BaseProcess, folder: Path, counts: Counts) -> list[Row]:
    await bench.capacity(counts.pressed)
    rate = LOAD * await bench.capacity(counts.pressed)
    p50, p99, cores = ({way: list[float]() for way in ("alone", "plain", "split", "sleep")} for _ in range(3))

    async def measure(way: str, training: BaseProcess | None, gpu: Gpu | None) -> None:
        pulse = PulseWriter(folder / "pulse.json")
        if training is not None:
            resume(training.pid or 0)
            await asyncio.sleep(WARM_SECONDS)
        had, began = _spent(training) if training else 0.0, time.perf_counter()
        if gpu is None or training is None:
            times = await bench.paced(rate, counts.seconds)
        else:
            async with _pacing(gpu, pulse, training.pid or 0):
                times = await bench.paced(rate, counts.seconds, pulse)
        if training is not None:
            cores[way].append((_spent(training) - had) / (time.perf_counter() - began))
            pause(training.pid or 0)
        p50[way].append(statistics.median(times))
        p99[way].append(statistics.quantiles(times, n=100)[98])

    for _ in range(counts.rounds):
        await measure("alone", None, None)
        bound = Gpu(share="split", max_p99_ms=max(1, int(OVER_ALONE * statistics.median(p99["alone"]))))
        await measure("plain", plain, None)
        await measure("split", polite, bound)
        await measure("sleep", polite, Gpu(share="sleep"))
    return [
        Row.under("p99 of answers beside a training, over alone", "ms", p99["plain"], p99["alone"]),
        Row.under("p99 beside one that is split", "ms", p99["split"], p99["alone"], OVER_ALONE),
        Row.under("p99 beside one that sleeps", "ms", p99["sleep"], p99["alone"], OVER_ALONE),
        Row.under("p50 beside one that is split", "ms", p50["split"], p50["alone"]),
        Row.of("cores that a split training has, over one as it comes", "cores", cores["split"], cores["plain"]),
        Row.of("cores that a sleeping one has", "cores", cores["sleep"], cores["plain"]),
    ]
