"""Products of a batch with many adapters on a CPU: its tokens are grouped by adapter, and every adapter's matrices are multiplied where they lie.

Source: Punica (Chen et al. 2023), S-LoRA (Sheng et al. 2023).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import Tensor

LONG = 32
"""Tokens side by side, of one adapter, that are multiplied by themselves: a prompt's. Below that, tokens are gathered."""
SPREAD = 4
"""Groups are filled up to one size and multiplied at once, where that makes none more than so many times as large."""
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


@dataclass(frozen=True, slots=True)
class Batch:
    """How the tokens of a step are multiplied."""

    slots: frozenset[int]
    runs: tuple[Run, ...]
    bundles: tuple[Bundle, ...]


def grouped(slots: Sequence[int]) -> Batch:
    """Groups tokens by their slots. Pure."""
    if len(set(slots)) == 1 and slots[0] != NONE:
        return Batch(frozenset(slots), (Run(slots[0], slice(0, len(slots))),), ())
    runs: list[Run] = []
    short: defaultdict[int, list[int]] = defaultdict(list)
    at = 0
    for slot, tokens in groupby(slots):
        count = sum(1 for _ in tokens)
        if slot != NONE:
            if count >= LONG:
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
    slots, most = list(groups), max(map(len, groups.values()))
    gather = [token for tokens in groups.values() for token in (*tokens, *[0] * (most - len(tokens)))]
    place = {token: i * most + j for i, tokens in enumerate(groups.values()) for j, token in enumerate(tokens)}
    tokens = sorted(place)
    adjacent = slots[-1] - slots[0] + 1 == len(slots)
    return Bundle(
        slice(slots[0], slots[-1] + 1) if adjacent else torch.tensor(slots), len(slots), torch.tensor(gather), torch.tensor([place[token] for token in tokens]),
        None if len(tokens) == count else torch.tensor(tokens),
    )  # fmt: skip


class Packed:
    """The matrices of one layer: `down` (slots, inputs, projections * rank), `up` (slots, projections * rank, outputs), of which a projection has a block. vLLM's own tensors become views of them, so that what it loads is here."""

    def __init__(self, lora_a: Sequence[Tensor], lora_b: Sequence[Tensor]) -> None:
        slots, _, rank, inputs = lora_a[0].shape
        sizes = [b.shape[2] for b in lora_b]
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
        self.blocks = tuple((slice(i * rank, (i + 1) * rank), slice(end - size, end)) for i, (size, end) in enumerate(zip(sizes, ends, strict=True)))
        """Of `up`: rows and columns of each projection."""
        self.down = lora_a[0].new_zeros(slots, inputs, len(sizes) * rank)
        self.up = lora_b[0].new_zeros(slots, len(sizes) * rank, ends[-1])
        for a, b, (inner, outer) in zip(lora_a, lora_b, self.blocks, strict=True):
            _move(a, self.down[:, :, inner].mT.unsqueeze(1))
            _move(b, self.up[:, inner, outer].mT.unsqueeze(1))
        self.filled: frozenset[int] = frozenset()

    def look(self) -> None:
        """Notes which slots have an adapter that changes this layer."""
        self.filled = frozenset(self.down.flatten(1).any(1).nonzero().flatten().tolist())

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
        inner, up, target = x[run.tokens] @ self.down[run.slot], self.up[run.slot], y[run.tokens]
        for rows, columns in self.blocks:
            target[:, columns].addmm_(inner[:, rows], up[rows, columns])

    def _add_bundle(self, y: Tensor, x: Tensor, bundle: Bundle) -> None:
        groups = x.index_select(0, bundle.gather).view(bundle.groups, -1, x.shape[1])
        made = torch.bmm(torch.bmm(groups, self.down[bundle.slots]), self.up[bundle.slots]).view(-1, y.shape[1]).index_select(0, bundle.places)
        if bundle.tokens is None:
            y += made
        else:
            y.index_add_(0, bundle.tokens, made)


def _move(tensor: Tensor, into: Tensor) -> None:
    """Makes `tensor` a view of `into`, with what it holds."""
    into.copy_(tensor)
    tensor.set_(into)
