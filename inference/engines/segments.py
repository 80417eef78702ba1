"""Products of a batch with many adapters on a CPU: its tokens are grouped by adapter, and every adapter's matrices are multiplied where they lie.

Source: Punica (Chen et al. 2023), S-LoRA (Sheng et al. 2023).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby

import torch
from torch import Tensor

LONG, LONG_IN_BFLOAT16 = 32, 256
"""Tokens side by side, of one adapter, that are multiplied by themselves: a prompt's. Below that, tokens are gathered: in bfloat16 each product costs more of itself (see SMALL) than what it reads is copied for."""
SPREAD = 4
"""Groups are filled up to one size and multiplied at once, where that makes none more than so many times as large."""
HOLES = 2
"""Slots between those of a bundle are multiplied too, by any token, where all are not more than so many times as many: to copy the matrices of those that are asked for costs three times what it costs to read them."""
SMALL = 65_536
"""Numbers of a bfloat16 input up to which gathered products are made in float32: oneDNN, which makes those in bfloat16, takes 30 us for the smallest, MKL 6 for one of 32 tokens of width 256 and 30 for one of 384."""
LEAST = 64
"""Tokens of which an input has to be small for float32 copies of the matrices to be kept: of 84 MB of an 8 B base's adapter they would be 168 more."""
NONE = -1
"""The slot of a token without an adapter."""


@dataclass(frozen=True, slots=True)
class Run:
    """Tokens side by side of one slot."""

    slot: int
    tokens: slice


@dataclass(frozen=True, slots=True)
class Bundle:
    """Groups of one size: `gather` (groups * size) has the token of each place, filled up with token 0; `places` (tokens) where the tokens `tokens` are among them; None where they are all there is, in order."""

    slots: slice | Tensor
    groups: int
    gather: Tensor
    places: Tensor
    tokens: Tensor | None
    _rows: dict[int, Tensor] = field(default_factory=dict)

    def rows(self, count: int) -> Tensor:
        """Where the tokens' `count` rows each are (tokens * count), if a group's places lie there `count` times, one set of them behind the other."""
        if count not in self._rows:
            size = len(self.gather) // self.groups
            first = (self.places // size) * size * count + self.places % size
            self._rows[count] = (first.unsqueeze(1) + torch.arange(count) * size).flatten()
        return self._rows[count]

    def of(self, matrices: Tensor, count: int = 1) -> Tensor:
        """Of `matrices` (slots * count, ...) those of the groups."""
        if isinstance(self.slots, slice):
            return matrices[self.slots.start * count : self.slots.stop * count]
        return matrices.view(-1, count, *matrices.shape[1:])[self.slots].flatten(0, 1)


@dataclass(frozen=True, slots=True)
class Batch:
    """How the tokens of a step are multiplied."""

    slots: frozenset[int]
    runs: tuple[Run, ...]
    bundles: tuple[Bundle, ...]


def grouped(slots: Sequence[int], dtype: torch.dtype = torch.float32) -> Batch:
    """Groups tokens of a number type by their slots. Pure."""
    long = LONG_IN_BFLOAT16 if dtype == torch.bfloat16 else LONG
    if len(set(slots)) == 1 and slots[0] != NONE:
        return Batch(frozenset(slots), (Run(slots[0], slice(0, len(slots))),), ())
    runs: list[Run] = []
    short: defaultdict[int, list[int]] = defaultdict(list)
    at = 0
    for slot, tokens in groupby(slots):
        count = sum(1 for _ in tokens)
        if slot != NONE:
            if count >= long:
                runs.append(Run(slot, slice(at, at + count)))
            else:
                short[slot] += range(at, at + count)
        at += count
    return Batch(frozenset(short) | {run.slot for run in runs}, tuple(runs), tuple(_bundle(part, len(slots)) for part in _alike(short)))


def _alike(groups: Mapping[int, Sequence[int]]) -> Iterator[dict[int, Sequence[int]]]:
    """Groups of sizes that are not too far apart, each part in the order of slots."""
    left = sorted(groups, key=lambda slot: len(groups[slot]), reverse=True)
    while left:
        part = [slot for slot in left if len(groups[slot]) * SPREAD >= len(groups[left[0]])]
        left = left[len(part) :]
        yield {slot: groups[slot] for slot in sorted(part)}


def _bundle(groups: Mapping[int, Sequence[int]], count: int) -> Bundle:
    most = max(map(len, groups.values()))
    span = range(min(groups), max(groups) + 1)
    near = len(span) <= HOLES * len(groups)
    slots: Sequence[int] = span if near else list(groups)
    gather = [token for slot in slots for token in (*groups.get(slot, ()), *[0] * (most - len(groups.get(slot, ()))))]
    place = {token: i * most + j for i, slot in enumerate(slots) for j, token in enumerate(groups.get(slot, ()))}
    tokens = sorted(place)
    return Bundle(
        slice(span.start, span.stop) if near else torch.tensor(slots), len(slots), torch.tensor(gather), torch.tensor([place[token] for token in tokens]),
        None if len(tokens) == count else torch.tensor(tokens),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Stack:
    """`count` projections side by side whose outputs are as many: `up` (slots * count, rank, outputs) makes of the columns `inner` of what `down` makes the columns `outer` of the layer's outputs."""

    up: Tensor
    single: Tensor
    """The same in float32, if inputs may be small, else `up` itself."""
    count: int
    inner: slice
    outer: slice

    def look(self, slot: int) -> None:
        """Notes what `up` has for a slot."""
        self._of(self.single, slot).copy_(self._of(self.up, slot))

    def _of(self, matrices: Tensor, slot: int) -> Tensor:
        return matrices[slot * self.count : (slot + 1) * self.count]

    def add_run(self, y: Tensor, inner: Tensor, slot: int) -> None:
        """Adds to `y` (tokens, outputs) what one slot makes of `inner` (tokens, count * rank)."""
        _, rank, outputs = self.up.shape
        for i in range(self.count):
            y[:, i * outputs : (i + 1) * outputs].addmm_(inner[:, i * rank : (i + 1) * rank], self.up[slot * self.count + i])

    def add_bundle(self, y: Tensor, inner: Tensor, bundle: Bundle) -> None:
        """Adds to `y` (tokens, outputs) what the bundle's slots make of `inner` (groups, size, count * rank)."""
        _, rank, outputs = self.up.shape
        groups, size, _ = inner.shape
        parts = inner.view(groups, size, self.count, rank).transpose(1, 2).reshape(groups * self.count, size, rank)
        up = self.up if inner.dtype == self.up.dtype else self.single
        made = torch.bmm(parts, bundle.of(up, self.count)).view(-1, outputs).index_select(0, bundle.rows(self.count)).view(-1, self.count * outputs)
        made = made.to(y.dtype)  # also faster than to add numbers of two types
        if bundle.tokens is None:
            y += made
        else:
            y.index_copy_(0, bundle.tokens, y.index_select(0, bundle.tokens).add_(made))


class Packed:
    """The matrices of one layer: `down` (slots, inputs, projections * rank), and stacks of those that make its outputs. vLLM's own tensors become views of them, so that what it loads is here."""

    def __init__(self, lora_a: Sequence[Tensor], lora_b: Sequence[Tensor]) -> None:
        slots, _, rank, inputs = lora_a[0].shape
        self.down = lora_a[0].new_zeros(slots, inputs, len(lora_a) * rank)
        for i, a in enumerate(lora_a):
            _move(a, self.down[:, :, i * rank : (i + 1) * rank].mT.unsqueeze(1))
        self._may_be_small = self.down.dtype == torch.bfloat16 and LEAST * inputs <= SMALL
        self.single = self._in_float32(self.down)
        self.stacks: list[Stack] = []
        inner = outer = 0
        for outputs, alike in groupby(lora_b, key=lambda b: int(b.shape[2])):
            projections = list(alike)
            count = len(projections)
            up = projections[0].new_zeros(slots * count, rank, outputs)
            for i, b in enumerate(projections):
                _move(b, up[i::count].mT.unsqueeze(1))
            self.stacks.append(Stack(up, self._in_float32(up), count, slice(inner, inner := inner + count * rank), slice(outer, outer := outer + count * outputs)))
        self.filled: set[int] = set()
        """Slots that have an adapter which changes this layer."""

    def look(self, slots: Collection[int]) -> None:
        """Notes which of `slots`, whose adapters are others than before, have one that changes this layer."""
        self.filled -= set(slots)
        self.filled |= {slot for slot in slots if self.down[slot].any()}
        if self._may_be_small:
            for slot in slots:
                self.single[slot].copy_(self.down[slot])
                for stack in self.stacks:
                    stack.look(slot)

    def _in_float32(self, matrices: Tensor) -> Tensor:
        return torch.zeros_like(matrices, dtype=torch.float32) if self._may_be_small else matrices

    def add(self, y: Tensor, x: Tensor, batch: Batch) -> None:
        """Adds to `y` (tokens, outputs) what the batch's adapters make of `x` (tokens, inputs)."""
        if batch.slots.isdisjoint(self.filled):
            return
        for run in batch.runs:
            if run.slot in self.filled:
                self._add_run(y, x, run)
        for bundle in batch.bundles:
            self._add_bundle(y, x, bundle)

    def _add_run(self, y: Tensor, x: Tensor, run: Run) -> None:
        inner, target = x[run.tokens] @ self.down[run.slot], y[run.tokens]
        for stack in self.stacks:
            stack.add_run(target[:, stack.outer], inner[:, stack.inner], run.slot)

    def _add_bundle(self, y: Tensor, x: Tensor, bundle: Bundle) -> None:
        groups, down = x.index_select(0, bundle.gather).view(bundle.groups, -1, x.shape[1]), self.down
        if self._may_be_small and groups.numel() <= SMALL:
            groups, down = groups.float(), self.single
        inner = torch.bmm(groups, bundle.of(down))
        for stack in self.stacks:
            stack.add_bundle(y[:, stack.outer], inner[:, :, stack.inner], bundle)


def _move(tensor: Tensor, into: Tensor) -> None:
    """Makes `tensor` a view of `into`, with what it holds."""
    into.copy_(tensor)
    tensor.set_(into)
