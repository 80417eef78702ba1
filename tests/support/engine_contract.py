"""What any engine behind the port must do, on a base and adapters of random weights."""

from __future__ import annotations

import asyncio
import time
from itertools import cycle
from pathlib import Path

import pytest

from inference.admission import has_effect
from inference.engines import Engine
from loom.bench.random_models import random_adapter
from runtime.errors import InvalidInput

RANK = 8
SLOTS = 8
"""As many adapters as an engine takes in one batch."""
FLOOD = 400
"""Requests, more than an engine takes in one batch."""
MODULES = ("self_attn.q_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
LONG = [5 + at % 97 for at in range(200)]
"""Over 128 tokens: vLLM caches what a prompt begins with, in blocks of that size on a CPU."""
SHORT = [5, 6, 7]


def of_one_module(base: str, folder: Path, seed: int, scale: float = 0.8, module: str = "self_attn.q_proj") -> Path:
    """An adapter of the base in folder `base` that changes one module of each layer; with `scale` 0 nothing."""
    return random_adapter(base, folder, seed, (module,), RANK, scale)


async def check_engine(engine: Engine, base: str, folder: Path) -> None:
    """Holds a started engine, without adapters, to the contract."""
    await adapters_come_answer_and_go(engine, base, folder)
    await bad_requests_are_refused_and_harm_nobody(engine, base, folder)
    await requests_share_the_engine(engine)
    await adapters_share_a_batch(engine, base, folder)
    await a_flood_holds_up_nobody_else(engine, base, folder)


async def adapters_come_answer_and_go(engine: Engine, base: str, folder: Path) -> None:
    first, second = of_one_module(base, folder / "1", 1), of_one_module(base, folder / "2", 2)
    assert engine.names() == frozenset()
    await engine.add("tool@1-aaaaaaaa", first)
    alone = await engine.probe(LONG, None)
    before = await engine.probe(LONG, "tool@1-aaaaaaaa")
    assert has_effect(alone, await engine.probe(LONG, None), before)
    await engine.add("tool@2-bbbbbbbb", second)
    assert engine.names() == {"tool@1-aaaaaaaa", "tool@2-bbbbbbbb"}
    after = await engine.probe(LONG, "tool@2-bbbbbbbb")
    assert has_effect(before, await engine.probe(LONG, "tool@1-aaaaaaaa"), after), "the second version answers with what the first one left in the cache"
    await engine.remove("tool@1-aaaaaaaa")
    assert engine.names() == {"tool@2-bbbbbbbb"}
    with pytest.raises(InvalidInput, match="tool@1-aaaaaaaa"):
        await engine.generate(SHORT, "tool@1-aaaaaaaa", None, 4)
    # the same weights under a third name answer as they did under the first
    await engine.add("tool@3-cccccccc", first)
    assert not has_effect(before, before, await engine.probe(LONG, "tool@3-cccccccc"))
    one, again = [await engine.generate(SHORT, "tool@3-cccccccc", None, 8) for _ in range(2)]
    assert (one.text, one.token_count) == (again.text, again.token_count)
    assert 0 < one.confidence <= 1


async def adapters_share_a_batch(engine: Engine, base: str, folder: Path) -> None:
    """Also with an adapter in every slot, requests of all of them and of the base are answered together as they are alone."""
    names = [f"mixed{i}@1-aaaaaaaa" for i in range(SLOTS)]
    for i, (name, module) in enumerate(zip(names, cycle(MODULES), strict=False)):
        await engine.add(name, of_one_module(base, folder / name, 10 + i, module=module))
    prompts = [(adapter, prompt) for adapter in (None, *names) for prompt in (LONG, SHORT, LONG[:40])]
    alone = [await engine.probe(prompt, name) for name, prompt in prompts]
    together = await asyncio.gather(*(engine.probe(prompt, name) for name, prompt in prompts))
    for (adapter, prompt), one, many in zip(prompts, alone, together, strict=True):
        assert apart(one, many) < 0.05, f"{adapter or 'the base'} answers {len(prompt)} tokens otherwise in company"
    assert all(apart(one, of_base) > 0.1 for one, of_base in zip(alone[3:], alone[:3] * SLOTS, strict=True)), "an adapter changes nothing"
    for name in names:
        await engine.remove(name)


async def a_flood_holds_up_nobody_else(engine: Engine, base: str, folder: Path) -> None:
    names = [f"{kind}@1-aaaaaaaa" for kind in ("flood", "quiet")]
    for i, name in enumerate(names):
        await engine.add(name, of_one_module(base, folder / name, 20 + i))
    flood = [asyncio.create_task(engine.generate([5 + at, *SHORT], names[0], None, 8)) for at in range(FLOOD)]
    while not any(task.done() for task in flood):
        await asyncio.sleep(0.005)
    await engine.generate(SHORT, names[1], None, 8)
    left = sum(not task.done() for task in flood)
    await asyncio.gather(*flood)
    for name in names:
        await engine.remove(name)
    assert left > FLOOD / 3, f"one request came after {FLOOD - left} of {FLOOD} that another adapter had before it"


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
        await engine.generate([5] * 5000, None, None, 4)
    with pytest.raises(InvalidInput):
        await engine.generate(SHORT, None, 'root ::= "a', 4)
    assert engine.names() == loaded
    noop = of_one_module(base, folder / "noop", 3, scale=0)
    await engine.add("noop@1-aaaaaaaa", noop)
    assert not has_effect(await engine.probe(SHORT, None), await engine.probe(SHORT, None), await engine.probe(SHORT, "noop@1-aaaaaaaa"))
    await engine.remove("noop@1-aaaaaaaa")
    assert engine.healthy


async def requests_share_the_engine(engine: Engine) -> None:
    assert (await engine.generate(SHORT, None, 'root ::= "yes" | "no"', 8)).text in ("yes", "no")
    pieces: list[str] = []
    counted = await engine.generate(SHORT, None, 'root ::= "one two three four"', 32, pieces.append)
    assert ("".join(pieces), len(pieces) > 1) == (counted.text, True)
    ends: dict[str, float] = {}

    async def timed(name: str, count: int) -> None:
        await engine.generate([*SHORT, count], None, f'root ::= "a"{{{count}}}', count + 8)
        ends[name] = time.monotonic()

    long = asyncio.create_task(timed("long", 300))
    await asyncio.sleep(0.05)
    await timed("short", 3)
    await long
    assert ends["short"] < ends["long"], "a short request waited for a long one that began earlier"
    # who goes away takes its request along
    leaving = asyncio.create_task(engine.generate([*SHORT, 9], None, 'root ::= "b"{800}', 900))
    await asyncio.sleep(0.2)
    leaving.cancel()
    with pytest.raises(asyncio.CancelledError):
        await leaving
    await asyncio.wait_for(_until_idle(engine), 5)


async def _until_idle(engine: Engine) -> None:
    while engine.in_flight:
        await asyncio.sleep(0.02)
