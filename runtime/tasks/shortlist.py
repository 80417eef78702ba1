"""Which of many tools a prompt shows: those whose examples are nearest to the message.

Short prompts are read better and faster; the adapter still decides, among tools in an order that says nothing of their
nearness. The same in training, evaluation and serving.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.tasks.samples import TaskSpec
from runtime.tasks.tool import Tool

Encode = Callable[[Sequence[str]], NDArray[np.float32]]


class Shortlist:
    """`encode` gives unit vectors of texts."""

    def __init__(self, encode: Encode) -> None:
        self._encode = encode
        self._known: dict[tuple[str, ...], NDArray[np.float32]] = {}

    def narrow(self, spec: TaskSpec, inputs: Sequence[Mapping[str, Any]], keep: Sequence[Collection[str]] | None = None) -> list[TaskSpec]:
        """`spec` for each input of its task, with the `spec.shortlist` tools that are nearest to the message, in their declared order.

        Tools named in `keep[i]` are all among them, which training needs: an answer must be on offer.
        """
        if spec.task != "tool" or not 0 < spec.shortlist < len(spec.tools) or not inputs:
            return [spec] * len(inputs)
        messages = self._encode([str(given["message"]) for given in inputs])
        nearness = np.stack([(messages @ self._examples(tool).T).max(axis=1) for tool in spec.tools], axis=1)
        return [self._narrow(spec, near, keep[i] if keep else ()) for i, near in enumerate(nearness)]

    def _narrow(self, spec: TaskSpec, near: NDArray[np.float32], keep: Collection[str]) -> TaskSpec:
        order = sorted(range(len(spec.tools)), key=lambda i: (spec.tools[i].name not in keep, -near[i]))
        shown = max(spec.shortlist, len(keep))
        return replace(spec, tools=tuple(spec.tools[i] for i in sorted(order[:shown])))

    def _examples(self, tool: Tool) -> NDArray[np.float32]:
        """Vectors of what the tool is for: (examples, dimensions)."""
        texts = (f"{tool.name.replace('_', ' ')}: {tool.description}", *tool.utterances)
        if texts not in self._known:
            self._known[texts] = self._encode(texts)
        return self._known[texts]
