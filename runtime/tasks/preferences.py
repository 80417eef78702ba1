"""Preference pairs: a plausible wrong answer beside the right one.

What is made wrong is what small models get wrong: a value cut short or grown by a word, another tool, a call where
none fits, an answer that another sentence of the passage gives, an answer that stops half-way.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Any

from runtime.tasks.chat import sentences
from runtime.tasks.prompt import one_line
from runtime.tasks.samples import TaskSpec, offered

PREFERENCE = "preference"
"""What stands in a dataset record's `task` for a pair."""


def plausible_wrong(spec: TaskSpec, given: Mapping[str, Any], wanted: Mapping[str, Any], rng: random.Random) -> dict[str, Any] | None:
    """A wrong output for `given` whose right one is `wanted`; None where there is no plausible one."""
    spec, given = offered(spec, given)
    options = list(_WRONG[spec.task](spec, given, wanted)) if spec.task in _WRONG else []
    return rng.choice(options) if options else None


def _wrong_calls(spec: TaskSpec, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    context = given.get("context", {})
    right = wanted["calls"][0] if wanted["calls"] else None
    for tool in spec.tools:
        if right is None or tool.name != right["tool"]:
            known = {name: context[name] for name in tool.arguments if name in context}
            missing = [name for name in tool.arguments if name in tool.required and name not in known]
            yield {"calls": [{"tool": tool.name, **known, **({"missing": missing} if missing else {})}]}
    if right is None:
        return
    yield {"calls": []}
    schemas = next(tool.arguments for tool in spec.tools if tool.name == right["tool"])
    words = one_line(given["message"]).split(" ")
    for name, value in right.items():
        if name in schemas and "enum" not in schemas[name] and schemas[name].get("type", "string") == "string" and name not in context:
            # as often as other tools: cut values are the commoner fault
            for wrong in _neighbouring_spans(str(value), words) * max(1, len(spec.tools) // 2):
                yield {"calls": [{**right, name: wrong}]}


def _neighbouring_spans(value: str, words: list[str]) -> list[str]:
    """`value` without its last or first word, or with the next word of the message."""
    parts = value.split(" ")
    spans = [" ".join(parts[:-1]), " ".join(parts[1:])] if len(parts) > 1 else []
    starts = (start for start in range(len(words) - len(parts)) if words[start : start + len(parts)] == parts)
    return [*spans, *(" ".join(words[start : start + len(parts) + 1]) for start in starts)]


def _wrong_answers(spec: TaskSpec, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    right = one_line(wanted["answer"])
    for sentence in sentences(given.get("passage", "")):
        if sentence not in right and right not in sentence:
            yield {"answer": sentence}
    if len(words := right.split(" ")) > 3:
        yield {"answer": " ".join(words[: len(words) // 2])}


_WRONG = {"tool": _wrong_calls, "chat": _wrong_answers}
