"""What an adapter must show before it serves, on an engine that says what the test has it say."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from pathlib import Path

import pytest

from inference.engines import Generation
from inference.proof import base_says, prove
from runtime.errors import InvalidInput
from runtime.project import load_project
from runtime.tasks.prompt import load_tokenizer
from runtime.tasks.samples import TaskSpec

TOKENIZER = load_tokenizer(load_project(Path(__file__).parents[3] / "examples/pebblewire/loom.toml").base_folder)
MOOD = TaskSpec("classify", ("BAD", "GOOD"))
OF_BASE = {1: -0.1, 2: -2.5}


class Says:
    """An engine whose base moves by `noise` from one time to the next, and whose adapter says `adapted`."""

    def __init__(self, adapted: dict[int, float], text: str = "GOOD", noise: float = 0.0) -> None:
        self.adapted, self.text, self.noise, self.asked = adapted, text, noise, 0

    async def probe(self, prompt: Sequence[int], adapter: str | None) -> dict[int, float]:
        if adapter:
            return self.adapted
        self.asked += 1
        return {token: said + (self.asked - 1) * self.noise for token, said in OF_BASE.items()}

    async def generate(self, *_: object) -> Generation:
        return Generation(self.text, 1, 0.9)


def proven(engine: Says, spec: TaskSpec = MOOD) -> None:
    async def ask() -> None:
        await prove(engine, "mood@1-0123abcd", spec, TOKENIZER, await base_says(engine, TOKENIZER))  # type: ignore[arg-type]

    asyncio.run(ask())


def test_what_moves_the_base_and_answers_in_form_may_serve() -> None:
    proven(Says({1: -0.6, 2: -1.0}))
    proven(Says({1: -0.6, 2: -1.0}, noise=0.01))


@pytest.mark.parametrize(
    ("engine", "reason"),
    [
        (Says(OF_BASE), "no effect"),
        (Says({1: -0.15, 2: -2.5}, noise=0.01), "no effect"),  # five times what the base moves by itself; ten are asked for
        (Says({1: math.nan, 2: -1.0}), "no numbers"),
        (Says({1: -0.6, 2: -1.0}, text="MEDIOCRE"), "form of its task"),
    ],
)
def test_what_does_not_is_refused_with_the_reason(engine: Says, reason: str) -> None:
    with pytest.raises(InvalidInput, match=f"mood@1-0123abcd.*{reason}"):
        proven(engine)


def test_a_tool_adapter_whose_tools_come_with_messages_is_asked_for_no_call() -> None:
    proven(Says({1: -0.6, 2: -1.0}, text="no call"), TaskSpec("tool"))
