"""The strict body of each task's training record, and the (prompt, completion) pair that it renders to.

| task | input | output |
| --- | --- | --- |
| classify | `{"text"}` | `{"label"}` |
| tool | `{"message", "context", "tools"}`, the last where others than the declared ones are on offer | `{"calls": [{"tool", …}]}`, at most one call |
| extract | `{"text"}` | `{"entities": [{"start", "end", "label"}]}`, offsets in the one-line text |
| chat | `{"question", "passage", "history": [{"question", "answer"}]}`, the latter two where there are any | `{"answer"}` |
| cpt | `{}` | `{"text"}` |
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from runtime.tasks import chat, classify, extract, tool
from runtime.tasks.prompt import Prompt, one_line

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """What a task may answer: labels or entity types, tools, quotes alone; a prompt shows `shortlist` tools or sentences to quote, 0 for all."""

    task: str
    labels: tuple[str, ...] = ()
    tools: tuple[tool.Tool, ...] = ()
    quote: bool = False
    shortlist: int = 0


def offered(spec: TaskSpec, given: Body) -> tuple[TaskSpec, Body]:
    """`spec` with the tools that an input brings instead of the declared ones, and the input without them.

    Raises:
        ValueError: they are no tools (`tool.brought`).
    """
    if spec.task != "tool" or "tools" not in given:
        return spec, given
    return replace(spec, tools=tool.brought(given["tools"])), {name: value for name, value in given.items() if name != "tools"}


def render(spec: TaskSpec, body: Body, rng: random.Random | None = None) -> tuple[Prompt, str]:
    """Prompt and completion of a training record; `rng` shuffles labels and tools on offer, None keeps their order.

    Raises:
        ValueError: the body is not of the task's shape, or its output is outside of what `spec` allows.
    """
    try:
        spec, given = offered(spec, body["input"])
        wanted = body["output"]
        prompt, completion = _RENDERERS[spec.task](spec, given, wanted, rng)
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a {spec.task} example: {type(error).__name__}: {error}") from error
    if not prompt.user or not completion:
        raise ValueError(f"not a {spec.task} example: empty input or output")
    return prompt, completion


def render_pair(spec: TaskSpec, body: Body, rng: random.Random | None = None) -> tuple[Prompt, str, str]:
    """Prompt, chosen and rejected completion of a preference, whose body has `rejected` beside `output`.

    Raises:
        ValueError: as `render` does, or both completions are the same.
    """
    state = rng.getstate() if rng else None
    prompt, chosen = render(spec, body, rng)
    if rng and state:
        rng.setstate(state)
    try:
        rejected = render(spec, {"input": body["input"], "output": body["rejected"]}, rng)[1]
    except KeyError as error:
        raise ValueError(f"not a preference: {error} is missing") from error
    if chosen == rejected:
        raise ValueError("not a preference: chosen and rejected are the same")
    return prompt, chosen, rejected


def ask(spec: TaskSpec, given: Mapping[str, Any], rng: random.Random | None = None) -> Prompt:
    """The prompt of `render`, for an input whose output is to be found."""
    if spec.task == "classify":
        return classify.render_prompt(_order(spec.labels, rng), given["text"])
    if spec.task == "tool":
        return tool.render_prompt(_order(spec.tools, rng), given.get("context", {}), given["message"])
    if spec.task == "extract":
        return extract.render_prompt(_order(spec.labels, rng), given["text"])
    return chat.render_prompt(given["question"], given.get("passage", ""), given.get("history", ()))


def answer(spec: TaskSpec, completion: str, given: Mapping[str, Any]) -> Any:
    """The JSON output that `completion` stands for.

    Raises:
        ValueError: it is not valid for `spec`.
    """
    if spec.task == "classify":
        return classify.parse_label(completion, spec.labels)
    if spec.task == "tool":
        call = tool.parse_call(completion, spec.tools, given.get("context", {}))
        return call.to_json() if call else None
    if spec.task == "extract":
        return [e.to_json() for e in extract.parse_entities(completion, spec.labels, one_line(given["text"]))]
    return completion.strip()


def asked(given: Mapping[str, Any]) -> str:
    """The text that an input asks about: its message, text or question."""
    return next((str(given[name]) for name in ("message", "text", "question") if name in given), "")


def task_input(task: str, text: str, context: Mapping[str, str]) -> dict[str, Any]:
    """A request's text as the input of a task; a chat answer may rest on the context's `passage`, and on its `history`, a JSON list of turns.

    Raises:
        ValueError: the history is no JSON.
    """
    if task == "tool":
        return {"message": text, "context": dict(context)}
    if task != "chat":
        return {"text": text}
    return {"question": text, "passage": context.get("passage", ""), "history": json.loads(context.get("history", "[]"))}


def output_of(spec: TaskSpec, answer: Any) -> dict[str, Any]:
    """An answer in the form of a training record's output: the inverse of `expected`."""
    if spec.task == "tool":
        return {"calls": [answer] if answer else []}
    return {_OUTPUTS[spec.task]: answer}


def expected(spec: TaskSpec, wanted: Mapping[str, Any]) -> Any:
    """A training record's output in the form that `answer` gives."""
    if spec.task == "classify":
        return wanted["label"]
    if spec.task == "tool":
        return wanted["calls"][0] if wanted["calls"] else None
    if spec.task == "extract":
        return wanted["entities"]
    return wanted["answer"]


def _order(items: Sequence[Any], rng: random.Random | None) -> list[Any]:
    return rng.sample(list(items), k=len(items)) if rng else list(items)


def _classify(spec: TaskSpec, given: Body, wanted: Body, rng: random.Random | None) -> tuple[Prompt, str]:
    return ask(spec, given, rng), classify.parse_label(wanted["label"], spec.labels)


def _tool(spec: TaskSpec, given: Body, wanted: Body, rng: random.Random | None) -> tuple[Prompt, str]:
    calls = wanted["calls"]
    if len(calls) > 1:
        raise ValueError("a tool example holds one call at most: split the message into its requests")
    if not calls:
        return ask(spec, given, rng), tool.NO_TOOL
    arguments = {name: value for name, value in calls[0].items() if name not in ("tool", "missing")}
    call = tool.ToolCall(calls[0]["tool"], arguments, tuple(calls[0].get("missing", ())))
    context = given.get("context", {})
    completion = tool.render_call(call, spec.tools)
    parsed = tool.parse_call(completion, spec.tools, context)
    assert parsed is not None  # only `NO_TOOL` is none
    haystack = one_line(" ".join([given["message"], *context.values()]))
    declared = next(t for t in spec.tools if t.name == call.tool)
    for name, value in parsed.arguments.items():
        schema = declared.arguments[name]
        if schema.get("type", "string") == "string" and "enum" not in schema and one_line(str(value)) not in haystack:
            raise ValueError(f"{name} is {value!r}, which is no span of the message or of the context")
    for name in declared.arguments.keys() - declared.said.keys():
        known = parsed.arguments.get(name)
        if arguments.get(name) != known or (known is None and name in declared.required and name not in call.missing):
            raise ValueError(f"{name} is injected: " + (f"it is {known!r}, as in the context" if name in context else "the context does not have it, so it is missing"))
    return ask(spec, given, rng), completion


def _extract(spec: TaskSpec, given: Body, wanted: Body, rng: random.Random | None) -> tuple[Prompt, str]:
    text = one_line(given["text"])
    entities = [extract.Entity(e["start"], e["end"], e["label"], text[e["start"] : e["end"]]) for e in wanted["entities"]]
    completion = extract.render_entities(entities)
    extract.parse_entities(completion, spec.labels, text)
    return ask(spec, given, rng), completion


def _chat(spec: TaskSpec, given: Body, wanted: Body, rng: random.Random | None) -> tuple[Prompt, str]:
    return ask(spec, given, rng), one_line(wanted["answer"])


def _cpt(spec: TaskSpec, given: Body, wanted: Body, rng: random.Random | None) -> tuple[Prompt, str]:
    return Prompt("", "text"), str(wanted["text"]).strip()


_OUTPUTS = {"classify": "label", "extract": "entities", "chat": "answer"}
_RENDERERS = {"classify": _classify, "tool": _tool, "extract": _extract, "chat": _chat, "cpt": _cpt}
