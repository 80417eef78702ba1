"""What a prompt shows of much: the tools whose examples are nearest to a message, the sentences of a passage that are nearest to a question.

Short prompts are read better and faster. Tools stand in an order that says nothing of their nearness; sentences that may be quoted
stand with the nearest first, which is for the adapter to learn from. The same in training, evaluation and serving.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from cachetools import LRUCache
from numpy.typing import NDArray

from runtime.tasks import chat
from runtime.tasks.prompt import one_line
from runtime.tasks.samples import TaskSpec, offered
from runtime.tasks.tool import Tool

Encode = Callable[[Sequence[str]], NDArray[np.float32]]
Shown = tuple[TaskSpec, Mapping[str, Any]]
"""What is on offer, and the input as the prompt shows it."""
MAX_SENTENCES = 512
"""Of one passage: a few seconds of the encoder."""
MAX_KNOWN = 4096
"""Tools whose vectors are kept, some KiB each: messages may bring any."""


def may_cut(spec: TaskSpec) -> bool:
    """Whether narrowing may ask the encoder, which takes milliseconds."""
    return bool(spec.shortlist) and (spec.task == "tool" or (spec.task == "chat" and spec.quote))


class Shortlist:
    """`encode` gives unit vectors of texts."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._known: LRUCache[tuple[str, ...], NDArray[np.float32]] = LRUCache(MAX_KNOWN)
        self._lock = threading.Lock()

    def narrow(self, spec: TaskSpec, inputs: Sequence[Mapping[str, Any]], keep: Sequence[Collection[str]] | None = None) -> list[Shown]:
        """`spec` and each input of its task, cut down to `spec.shortlist` tools in their declared order, or to as many sentences to quote, the nearest first.

        What `keep[i]` names, tools or answers, is on offer in any case, which training needs.

        Raises:
            ValueError: a passage has more than MAX_SENTENCES sentences, or an input is not of its task.
        """
        keep = keep or [()] * len(inputs)
        if spec.task == "tool":
            return self._nearest_tools(spec, inputs, keep)
        if may_cut(spec) and inputs:
            return self._nearest_sentences(spec, inputs, keep)
        return [(spec, given) for given in inputs]

    def _nearest_tools(self, spec: TaskSpec, inputs: Sequence[Mapping[str, Any]], keep: Sequence[Collection[str]]) -> list[Shown]:
        shown = [offered(spec, given) for given in inputs]
        many = [i for i, (own, _) in enumerate(shown) if own.shortlist and own.shortlist < len(own.tools)]
        for i, message in zip(many, self._encode([str(inputs[i]["message"]) for i in many]) if many else (), strict=True):
            own, given = shown[i]
            near = np.array([(self._examples(tool) @ message).max() for tool in own.tools])
            places = _nearest(near, own.shortlist, [tool.name in keep[i] for tool in own.tools])
            shown[i] = replace(own, tools=tuple(own.tools[place] for place in sorted(places))), given
        return shown

    def _nearest_sentences(self, spec: TaskSpec, inputs: Sequence[Mapping[str, Any]], keep: Sequence[Collection[str]]) -> list[Shown]:
        said = [_sentences(given) for given in inputs]
        asked = [_asked(given) for given in inputs]
        texts = list(dict.fromkeys([*asked, *(sentence for sentences in said for sentence in sentences)]))
        place = {text: i for i, text in enumerate(texts)}
        vectors = self._encode(texts)

        def cut_down(given: Mapping[str, Any], question: str, sentences: Sequence[str], kept: Collection[str]) -> Mapping[str, Any]:
            if not sentences:
                return given
            near = vectors[[place[sentence] for sentence in sentences]] @ vectors[place[question]]
            answers = [one_line(answer) for answer in kept]
            places = _nearest(near, spec.shortlist, [any(s in answer or answer in s for answer in answers) for s in sentences])
            return {**given, "passage": " ".join(sentences[i] for i in sorted(places, key=lambda i: -near[i]))}

        return [(spec, cut_down(*one)) for one in zip(inputs, asked, said, keep, strict=True)]

    def _examples(self, tool: Tool) -> NDArray[np.float32]:
        """Vectors of what the tool is for: (examples, dimensions)."""
        texts = (f"{tool.name.replace('_', ' ')}: {tool.description}", *tool.utterances)
        with self._lock:  # several requests are narrowed at once, each in a thread
            known = self._known.get(texts)
        if known is None:
            known = self._encode(texts)
            with self._lock:
                self._known[texts] = known
        return known


def _nearest(near: NDArray[np.float32], count: int, kept: Sequence[bool]) -> list[int]:
    """The places of what is kept, then of the nearest others, `count` in all or as many as are kept."""
    order = sorted(range(len(near)), key=lambda i: (not kept[i], -near[i]))
    return order[: max(count, sum(kept))]


def _sentences(given: Mapping[str, Any]) -> list[str]:
    """The sentences of an input's passage. Raises ValueError where there are too many."""
    sentences = chat.sentences(str(given.get("passage") or ""))
    if len(sentences) > MAX_SENTENCES:
        raise ValueError(f"the passage has {len(sentences)} sentences, {MAX_SENTENCES} at most")
    return sentences


def _asked(given: Mapping[str, Any]) -> str:
    """The question, behind the one that it may lean on.

    Raises:
        ValueError: the history is no list of turns.
    """
    prompt = chat.render_prompt(str(given["question"]), history=given.get("history", ()))
    return " ".join([*(question for question, _ in prompt.history[-1:]), prompt.user])
