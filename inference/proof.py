"""What an adapter shows, once the engine has loaded it, before requests reach it: that it changes what the base says, and that it answers in the form of its task."""

from __future__ import annotations

import asyncio
import math
from dataclasses import replace
from typing import Any

from inference.admission import has_effect
from inference.engines import Engine
from runtime.errors import InvalidInput
from runtime.tasks.grammar import MAX_TOKENS, grammar
from runtime.tasks.prompt import Prompt, prompt_ids
from runtime.tasks.samples import TaskSpec, answer, ask, task_input

PROBE = Prompt("labels: yes, no", "Is this a probe of the adapter's effect?")


async def base_says(engine: Engine, tokenizer: Any) -> dict[int, float]:
    """What the base, without an adapter, says to the probe: the log probabilities of its likeliest tokens."""
    return await engine.probe(prompt_ids(tokenizer, PROBE), None)


async def prove(engine: Engine, name: str, spec: TaskSpec, tokenizer: Any, base: dict[int, float]) -> None:
    """Asks the adapter that the engine calls `name`, which is for the task of `spec`; `base` is what the base said to the probe (see `base_says`).

    Raises:
        InvalidInput: it answers as the base does, with no numbers, or not in the form of its task.
    """
    ids = prompt_ids(tokenizer, PROBE)
    again, adapted, said = await asyncio.gather(engine.probe(ids, None), engine.probe(ids, name), _wrong_in_form(engine, name, spec, tokenizer))
    if not all(map(math.isfinite, adapted.values())):
        raise InvalidInput(f"{name} answers with no numbers: its weights are too large, or none")
    if not has_effect(base, again, adapted):
        raise InvalidInput(f"{name} has no effect: it answers as the base does")
    if said is not None:
        raise InvalidInput(f"{name} does not answer in the form of its task: {said}") from said


async def _wrong_in_form(engine: Engine, name: str, spec: TaskSpec, tokenizer: Any) -> ValueError | None:
    """What is wrong with an answer that it gives."""
    shown, given = replace(spec, tools=spec.tools[: spec.shortlist]), task_input(spec.task, PROBE.user, {})
    if shown.task == "tool" and not shown.tools:
        return None  # they come with each message
    made = await engine.generate(prompt_ids(tokenizer, ask(shown, given)), name, grammar(shown, given), MAX_TOKENS[shown.task])
    try:
        answer(shown, made.text, given)
    except ValueError as error:
        return error
    return None
