"""`loom bench inference`: four adapters beside the base alone, stock vLLM, PEFT's loop and a batch of Transformers, by turns in one run; then requests through Kafka beside the engine alone."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from loom.bench.compare import ROUNDS, Row, take_turns
from loom.bench.engine_side import Load, Process, side
from loom.bench.events import event_rows
from loom.bench.random_models import random_adapter, random_base

ADAPTERS = 4
MIXED_OVER_BASE, OVER_PEFT, STARTS_OVER_STOCK = 0.8, 10.0, 1 / 0.6
ANSWERS = (24,)
UNEVEN = (4, 8, 16, 68)
"""As many tokens as those of ANSWERS, on average."""
MIXED = Load(requests=64, at_once=32, prompt_tokens=96, answer_tokens=ANSWERS, adapters=ADAPTERS)
SIZES = ((256, 8), (384, 8), (512, 8))
"""Width and layers of bases on which a batch of Transformers is compared: 7 M weights, 16 M and 27 M."""
SIZES_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: of each load one in `divide` requests, in `rounds` rounds, on the first `sizes` bases; and so many starts, after one that fills the machine's caches."""

    divide: int
    rounds: int
    sizes: int
    starts: int


WHOLE, QUICK = Plan(1, ROUNDS, len(SIZES), 3), Plan(8, 1, 1, 1)


def adapter_rows(base: str, plan: Plan) -> list[Row]:
    """Tokens a second with adapters. Raises BenchmarkFailed where a side ends."""
    with tempfile.TemporaryDirectory(prefix="loom-bench-") as name, ExitStack() as stack:
        adapters = Path(name)
        for i in range(ADAPTERS):
            random_adapter(base, adapters / str(i), i)
        starts = take_turns({kind: starts_a_second(kind, base, adapters) for kind in ("ours", "stock")}, plan.starts)
        ours, stock, peft = (stack.enter_context(side(kind, base, adapters, ADAPTERS)) for kind in ("ours", "stock", "peft"))
        mixed, alone = part_of(MIXED, plan.divide), part_of(replace(MIXED, adapters=0), plan.divide)
        values = take_turns(
            {
                "mixed": tokens_a_second(ours, mixed), "base": tokens_a_second(ours, alone), "stock mixed": tokens_a_second(stock, mixed), "stock base": tokens_a_second(stock, alone),
                "peft": tokens_a_second(peft, part_of(MIXED, plan.divide * 8)),
            },
            plan.rounds,
        )  # fmt: skip
    return [
        Row.of("four adapters mixed over the base alone", "tokens/s", values["mixed"], values["base"], MIXED_OVER_BASE),
        Row.of("the same in stock vLLM", "tokens/s", values["stock mixed"], values["stock base"]),
        Row.of("four adapters mixed over stock vLLM", "tokens/s", values["mixed"], values["stock mixed"]),
        Row.of("the base over stock vLLM", "tokens/s", values["base"], values["stock base"]),
        Row.of("four adapters mixed over PEFT's loop", "tokens/s", values["mixed"], values["peft"], OVER_PEFT),
        Row.of("start over stock vLLM", "starts/s", starts["ours"], starts["stock"], STARTS_OVER_STOCK),
    ]


def size_rows(base: str, plan: Plan) -> list[Row]:
    """Our engine over a batch of Transformers, by the size of the base and whether answers are of one length. Raises BenchmarkFailed where a side ends."""
    rows = []
    for width, layers in SIZES[: plan.sizes]:
        with tempfile.TemporaryDirectory(prefix="loom-bench-") as name, ExitStack() as stack:
            folder = Path(name)
            made = str(random_base(base, folder / "base", width, layers))
            ours, batch = (stack.enter_context(side(kind, made, folder, 0)) for kind in ("ours", "batch"))
            for lengths, what in ((ANSWERS, "of one length"), (UNEVEN, "of 4 to 68 tokens")):
                load = part_of(replace(MIXED, requests=MIXED.at_once, adapters=0, answer_tokens=lengths), plan.divide)
                values = take_turns({"ours": tokens_a_second(ours, load), "batch": tokens_a_second(batch, load)}, min(plan.rounds, SIZES_ROUNDS))
                rows.append(Row.of(f"width {width}, answers {what}: over a batch of Transformers", "tokens/s", values["ours"], values["batch"]))
    return rows


def part_of(load: Load, divide: int) -> Load:
    """A load with one in `divide` of its requests, at least four."""
    return replace(load, requests=max(4, load.requests // divide))


def starts_a_second(kind: str, base: str, adapters: Path) -> Callable[[], float]:
    """A side that starts, adapters included, and stops."""

    def measure() -> float:
        with side(kind, base, adapters, ADAPTERS) as process:
            return 1 / process.started_seconds

    return measure


def tokens_a_second(process: Process, load: Load) -> Callable[[], float]:
    """A side that carries out `load` with prompts that it has not seen, after half of it unmeasured: a side that stood still for the others' turns is a sixth slower at first."""
    seeds = itertools.count(1)
    tokens = sum(load.lengths())

    def measure() -> float:
        seed = next(seeds)
        process.seconds(replace(part_of(load, 2), seed=-seed))
        return tokens / process.seconds(replace(load, seed=seed))

    return measure


def inference_rows(base: str, quick: bool) -> Iterator[list[Row]]:
    """The rows of the benchmark, part by part."""
    plan = QUICK if quick else WHOLE
    yield adapter_rows(base, plan)
    yield size_rows(base, plan)
    yield asyncio.run(event_rows(base, quick))
