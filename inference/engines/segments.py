"""Products of a batch with many adapters on a CPU: its tokens are grouped by adapter, and every adapter's matrices are multiplied where they lie, by loops of our own but for long prompts.

Source: Punica (Chen et al. 2023), S-LoRA (Sheng et al. 2023).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, groupby
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.engines.kernels import PADDING, TOGETHER, expand, shrink

LONG = 256
"""Tokens side by side, of one adapter, that are multiplied by themselves, by torch: a long prompt's. In bfloat16 torch rounds what is between the two products, which our loops do not: what is asked again, and partly in the cache, should rarely go another way."""
NONE = -1
"""The slot of a token without an adapter."""


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens side by side of one slot."""

    slot: int
    tokens: slice


@dataclass(frozen=True, slots=True)
class Groups:
    """Tokens by slots, as `kernels` takes them: those of `slots[g]` are in `tokens` from `starts[g]` to `starts[g + 1]`, filled up to whole blocks."""

    slots: NDArray[np.int64]
    starts: NDArray[np.int64]
    tokens: NDArray[np.int64]
    _rooms: dict[int, NDArray[np.float32]] = field(default_factory=dict)

    def room(self, width: int) -> NDArray[np.float32]:
        """For what is between the two products (places, width); each layer of such a width writes there."""
        if width not in self._rooms:
            self._rooms[width] = np.empty((len(self.tokens), width), np.float32)
        return self._rooms[width]


@dataclass(frozen=True, slots=True)
class Batch:
    """How the tokens of a step are multiplied."""

    slots: frozenset[int]
    runs: tuple[Run, ...]
    groups: Groups | None


def grouped(slots: Sequence[int]) -> Batch:
    """Groups tokens by their slots. Pure."""
    runs: list[Run] = []
    others: defaultdict[int, list[int]] = defaultdict(list)
    at = 0
    for slot, tokens in groupby(slots):
        count = sum(1 for _ in tokens)
        if slot != NONE and count >= LONG:
            runs.append(Run(slot, slice(at, at + count)))
        elif slot != NONE:
            others[slot] += range(at, at + count)
        at += count
    return Batch(frozenset(others) | {run.slot for run in runs}, tuple(runs), _groups(others) if others else None)


def _groups(tokens: Mapping[int, Sequence[int]]) -> Groups:
    filled = [[*some, *[PADDING] * (-len(some) % TOGETHER)] for some in tokens.values()]
    return Groups(np.array(list(tokens)), np.array(list(accumulate(map(len, filled), initial=0))), np.array([token for some in filled for token in some]))


@dataclass(frozen=True, slots=True)
class Stack:
    """`count` projections side by side whose outputs are as many: `up` (slots * count, rank, outputs) makes of the columns `inner` of what `down` makes the columns `outer` of the layer's outputs."""

    up: Tensor
    numbers: NDArray[Any]
    """`up` as `kernels` takes it."""
    count: int
    inner: slice
    outer: slice

    def add_run(self, y: Tensor, inner: Tensor, slot: int) -> None:
        """Adds to `y` (tokens, outputs) what one slot makes of `inner` (tokens, count * rank)."""
        _, rank, outputs = self.up.shape
        for i in range(self.count):
            y[:, i * outputs : (i + 1) * outputs].addmm_(inner[:, i * rank : (i + 1) * rank], self.up[slot * self.count + i])

    def add_groups(self, y: Tensor, inner: NDArray[np.float32], groups: Groups) -> None:
        """Adds to `y` (tokens, outputs of the layer) what their slots make of `inner` (places, width)."""
        expand(y.data_ptr(), *y.shape, self.outer.start, inner, self.inner.start, self.numbers, self.count, groups.slots, groups.starts, groups.tokens)


class Packed:
    """The matrices of one layer: `down` (slots, width, inputs), a row for each rank of each projection, and stacks of those that make its outputs. vLLM's own tensors become views of them, so that what it loads is here."""

    def __init__(self, lora_a: Sequence[Tensor], lora_b: Sequence[Tensor]) -> None:
        slots, _, rank, inputs = lora_a[0].shape
        width = len(lora_a) * rank
        self.down = lora_a[0].new_zeros(slots, width + -width % TOGETHER, inputs)
        for i, a in enumerate(lora_a):
            _move(a, self.down[:, i * rank : (i + 1) * rank].unsqueeze(1))
        self._numbers = _numbers(self.down)
        self.stacks: list[Stack] = []
        inner = outer = 0
        for outputs, alike in groupby(lora_b, key=lambda b: int(b.shape[2])):
            projections = list(alike)
            count = len(projections)
            up = projections[0].new_zeros(slots * count, rank, outputs)
            for i, b in enumerate(projections):
                _move(b, up[i::count].mT.unsqueeze(1))
            self.stacks.append(Stack(up, _numbers(up), count, slice(inner, inner := inner + count * rank), slice(outer, outer := outer + count * outputs)))
        self.filled: set[int] = set()
        """Slots that have an adapter which changes this layer."""

    def look(self, slots: Collection[int]) -> None:
        """Notes which of `slots`, whose adapters are others than before, have one that changes this layer."""
        self.filled -= set(slots)
        self.filled |= {slot for slot in slots if self.down[slot].any()}

    def add(self, y: Tensor, x: Tensor, batch: Batch) -> None:
        """Adds to `y` (tokens, outputs), whose rows lie behind one another, what the batch's adapters make of `x` (tokens, inputs)."""
        if batch.slots.isdisjoint(self.filled):
            return
        for run in batch.runs:
            if run.slot in self.filled:
                self._add_run(y, x, run)
        if batch.groups:
            self._add_groups(y, x.contiguous(), batch.groups)

    def _add_run(self, y: Tensor, x: Tensor, run: Run) -> None:
        inner, target = x[run.tokens] @ self.down[run.slot].mT, y[run.tokens]
        for stack in self.stacks:
            stack.add_run(target[:, stack.outer], inner[:, stack.inner], run.slot)

    def _add_groups(self, y: Tensor, x: Tensor, groups: Groups) -> None:
        inner = groups.room(self.down.shape[1])
        shrink(x.data_ptr(), len(x), self._numbers, groups.slots, groups.starts, groups.tokens, inner)
        for stack in self.stacks:
            stack.add_groups(y, inner, groups)


def _numbers(tensor: Tensor) -> NDArray[Any]:
    """Of float32, or the bits of bfloat16."""
    seen: NDArray[Any] = (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()
    return seen


def _move(tensor: Tensor, into: Tensor) -> None:
    """Makes `tensor` a view of `into`, with what it holds."""
    into.copy_(tensor)
    tensor.set_(into)
