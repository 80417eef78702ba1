"""What any engine behind the port must do, on a base and adapters of random weights."""

from __future__ import annotations

import asyncio
import time
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from inference.admission import has_effect
from inference.engines import Engine
from loom.bench.random_models import random_adapter
from loom.bench.reference import Reference, rounding
from runtime.errors import InvalidInput
from runtime.precision import is_bfloat16_faster
from runtime.tasks.prompt import load_tokenizer

RANK = 8
SLOTS = 8
"""As many adapters as an engine takes in one batch."""
FLOOD = 600
"""Requests, more than an engine takes in two batches of 256."""
MODULES = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
WORDS = "the lamp in our house will not light up when it rains and nobody can say why this happens again".split()
LONG_WORDS = 200
"""Over 128 tokens: vLLM caches what a prompt begins with, in blocks of that size on a CPU."""


def of_one_module(base: str, folder: Path, seed: int, scale: float = 0.8, module: str = "self_attn.q_proj") -> Path:
    """An adapter of the base in folder `base` that changes one module of each layer; with `scale` 0 nothing."""
    return random_adapter(base, folder, seed, (module,), RANK, scale)


def asked(base: str, number: int = 0, words: int = 3) -> list[int]:
    """The tokens of a text, another one for each number: what takes texts can be asked it too."""
    chosen = [WORDS[(number + at) % len(WORDS)] for at in range(words)]
    ids: list[int] = _tokenizer(base).encode(f"{number} {' '.join(chosen)}", add_special_tokens=False)
    return ids


@cache
def _tokenizer(base: str) -> Any:
    return load_tokenizer(base)


async def check_engine(engine: Engine, base: str, folder: Path, engines: int = 1, *, steers: bool = True) -> None:
    """Holds a started engine, without adapters, to the contract; one that is `engines` side by side takes as many batches at once, and one that does not steer by a grammar may refuse what does
    not follow it."""
    await adapters_come_answer_and_go(engine, base, folder)
    await bad_requests_are_refused_and_harm_nobody(engine, base, folder)
    await requests_share_the_engine(engine, base, steers=steers)
    await adapters_share_a_batch(engine, base, folder)
    await adapters_answer_as_peft_says(engine, base, folder)
    await a_flood_holds_up_nobody_else(engine, base, folder, engines * FLOOD)


async def adapters_come_answer_and_go(engine: Engine, base: str, folder: Path) -> None:
    first, second = of_one_module(base, folder / "1", 1), of_one_module(base, folder / "2", 2)
    short, long = asked(base), asked(base, words=LONG_WORDS)
    assert engine.names() == frozenset()
    await engine.add("tool@1-aaaaaaaa", first)
    alone = await engine.probe(long, None)
    before = await engine.probe(long, "tool@1-aaaaaaaa")
    assert has_effect(alone, await engine.probe(long, None), before)
    await engine.add("tool@2-bbbbbbbb", second)
    assert engine.names() == {"tool@1-aaaaaaaa", "tool@2-bbbbbbbb"}
    after = await engine.probe(long, "tool@2-bbbbbbbb")
    assert has_effect(before, await engine.probe(long, "tool@1-aaaaaaaa"), after), "the second version answers with what the first one left in the cache"
    await engine.remove("tool@1-aaaaaaaa")
    assert engine.names() == {"tool@2-bbbbbbbb"}
    with pytest.raises(InvalidInput, match="tool@1-aaaaaaaa"):
        await engine.generate(short, "tool@1-aaaaaaaa", None, 4)
    # the same weights under a third name answer as they did under the first
    await engine.add("tool@3-cccccccc", first)
    assert not has_effect(before, before, await engine.probe(long, "tool@3-cccccccc"))
    one, again = [await engine.generate(short, "tool@3-cccccccc", None, 8) for _ in range(2)]
    assert (one.text, one.token_count) == (again.text, again.token_count)
    assert 0 < one.confidence <= 1


async def adapters_share_a_batch(engine: Engine, base: str, folder: Path) -> None:
    """Also with an adapter in every slot, requests of all of them and of the base are answered together as they are alone."""
    names = [f"mixed{i}@1-aaaaaaaa" for i in range(SLOTS)]
    for i, (name, module) in enumerate(zip(names, cycle(MODULES), strict=False)):
        await engine.add(name, of_one_module(base, folder / name, 10 + i, module=module))
    prompts = [(adapter, prompt) for adapter in (None, *names) for prompt in (asked(base, words=LONG_WORDS), asked(base), asked(base, 3, 40))]
    alone = [await engine.probe(prompt, name) for name, prompt in prompts]
    together = await asyncio.gather(*(engine.probe(prompt, name) for name, prompt in prompts))
    for (adapter, prompt), one, many in zip(prompts, alone, together, strict=True):
        assert apart(one, many) < rounding(), f"{adapter or 'the base'} answers {len(prompt)} tokens otherwise in company"
    assert all(apart(one, of_base) > 0.5 for one, of_base in zip(alone[3:], alone[:3] * SLOTS, strict=True)), "an adapter changes nothing"
    for name in names:
        await engine.remove(name)


async def adapters_answer_as_peft_says(engine: Engine, base: str, folder: Path) -> None:
    """The base, and adapters of one module and of all."""
    reference = Reference(base, bfloat16=is_bfloat16_faster())
    prompts = [asked(base, words=LONG_WORDS), asked(base), asked(base, 3, 40)]
    made = [of_one_module(base, folder / "peft0", 30), random_adapter(base, folder / "peft1", 31, scale=0.1)]
    for i, adapter in enumerate(made):
        await engine.add(name := f"peft{i}@1-aaaaaaaa", adapter)
        reference.take(adapter)
        for prompt in prompts:
            logits = reference.after(prompt)(())
            expected = dict(enumerate((logits - np.logaddexp.reduce(logits)).tolist()))
            assert apart(await engine.probe(prompt, name), expected) < rounding(), f"adapter {i} answers {len(prompt)} tokens otherwise than PEFT does"
            assert apart(await engine.probe(prompt, None), expected) > 0.5, "an adapter changes nothing"
        await engine.remove(name)


async def a_flood_holds_up_nobody_else(engine: Engine, base: str, folder: Path, count: int) -> None:
    names = [f"{kind}@1-aaaaaaaa" for kind in ("flood", "quiet")]
    for i, name in enumerate(names):
        await engine.add(name, of_one_module(base, folder / name, 20 + i))
    flood = [asyncio.create_task(engine.generate(asked(base, 100 + at), names[0], None, 8)) for at in range(count)]
    # one may have ended before the last has come
    while engine.in_flight + sum(task.done() for task in flood) < count:
        await asyncio.sleep(0.005)
    # all of a batch may end in one step: a shorter answer ends before the others that begin with it
    await engine.generate(asked(base), names[1], None, 2)
    left = sum(not task.done() for task in flood)
    await asyncio.gather(*flood)
    for name in names:
        await engine.remove(name)
    assert left > count / 3, f"one request came after {count - left} of {count} that another adapter had before it"


def apart(one: dict[int, float], other: dict[int, float]) -> float:
    """The most that two answers differ, of the tokens that both hold likely."""
    return max((abs(one[token] - other[token]) for token in one.keys() & other.keys()), default=float("inf"))


async def bad_requests_are_refused_and_harm_nobody(engine: Engine, base: str, folder: Path) -> None:
    loaded = engine.names()
    with pytest.raises(InvalidInput):
        await engine.add("gone@1-aaaaaaaa", folder / "nowhere")
    (folder / "broken").mkdir()
    with pytest.raises(InvalidInput):
        await engine.add("broken@1-aaaaaaaa", folder / "broken")
    with pytest.raises(InvalidInput):
        await engine.generate(asked(base, words=5000), None, None, 4)
    with pytest.raises(InvalidInput):
        await engine.generate(asked(base), None, 'root ::= "a', 4)
    assert engine.names() == loaded
    noop = of_one_module(base, folder / "noop", 3, scale=0)
    await engine.add("noop@1-aaaaaaaa", noop)
    short = asked(base)
    assert not has_effect(await engine.probe(short, None), await engine.probe(short, None), await engine.probe(short, "noop@1-aaaaaaaa"))
    await engine.remove("noop@1-aaaaaaaa")
    assert engine.healthy


async def requests_share_the_engine(engine: Engine, base: str, *, steers: bool) -> None:
    short = asked(base)
    if steers:
        assert (await engine.generate(short, None, 'root ::= "yes" | "no"', 8)).text in ("yes", "no")
    else:
        with pytest.raises(InvalidInput, match="does not follow"):
            await engine.generate(short, None, 'root ::= "yes" | "no"', 8)
    pieces: list[str] = []
    counted = await engine.generate(short, None, 'root ::= "one two three four"' if steers else None, 32, pieces.append)
    assert ("".join(pieces), len(pieces) > 1) == (counted.text, True)
    ends: dict[str, float] = {}

    wordy = short if steers else await _wordy(engine, base)

    async def timed(name: str, count: int) -> None:
        await engine.generate(wordy, None, f'root ::= "a"{{{count}}}' if steers else None, count + 8 if steers else count)
        ends[name] = time.monotonic()

    long = asyncio.create_task(timed("long", 300))
    await asyncio.sleep(0.05)
    await timed("short", 3)
    await long
    assert ends["short"] < ends["long"], "a short request waited for a long one that began earlier"
    # who goes away takes its request along
    began = asyncio.Event()
    leaving = asyncio.create_task(engine.generate(wordy, None, 'root ::= "b"{800}' if steers else None, 900, lambda _: began.set()))
    await asyncio.wait_for(began.wait(), 30)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await asyncio.wait_for(_until_idle(engine), 5)


async def _wordy(engine: Engine, base: str) -> list[int]:
    """A prompt that the base answers at length."""
    for number in range(40):
        if (await engine.generate(asked(base, number), None, None, 300)).token_count > 200:
            return asked(base, number)
    raise AssertionError("the base is brief")


async def _until_idle(engine: Engine) -> None:
    while engine.in_flight:
        await asyncio.sleep(0.02)
