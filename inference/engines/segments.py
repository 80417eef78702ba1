"""Products of a batch with many adapters on a CPU: its tokens are grouped by adapter, and every adapter's matrices are multiplied where they lie.

Source: Punica (Chen et al. 2023), S-LoRA (Sheng et al. 2023).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import groupby
from struct import Struct

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from inference.engines.kernels import ALONE, BLOCKS, COLUMNS, PADDING, TOGETHER, multiplier

GIVEN = Struct(f"@{COLUMNS}q")
"""What of a job is of one step: to write it as an array took 15 us between other work."""
NONE = -1
"""The slot of a token without an adapter."""


@dataclass(frozen=True, slots=True)
class Batch:
    """The tokens of a step by slots, in blocks as `kernels` takes them: `slots` (blocks) has the slot of each, `tokens` (blocks * TOGETHER) the tokens in it."""

    adapters: frozenset[int]
    """The slots that are asked for."""
    slots: NDArray[np.int64]
    tokens: NDArray[np.int64]
    job: tuple[int, int, int, int]
    """As `kernels` names it."""
    threads: int
    """That share its work."""


def grouped(slots: Sequence[int]) -> Batch:
    """Groups tokens by their slots."""
    groups: defaultdict[int, list[int]] = defaultdict(list)
    for token, slot in enumerate(slots):
        if slot != NONE:
            groups[slot].append(token)
    for tokens in groups.values():
        tokens.extend([PADDING] * (-len(tokens) % TOGETHER))
    blocks = [slot for slot, tokens in groups.items() for _ in range(0, len(tokens), TOGETHER)]
    those, order = np.array(blocks, np.int64), np.array([token for tokens in groups.values() for token in tokens], np.int64)
    threads = torch.get_num_threads() if len(those) > ALONE else 1
    return Batch(frozenset(groups), those, order, (those.ctypes.data, order.ctypes.data, len(those), min(BLOCKS, -(-len(those) // threads))), threads)


@dataclass(frozen=True, slots=True)
class Stack:
    """`count` projections side by side whose outputs are as many: `up` (slots * count, rank, outputs) makes of the columns from `inner` on of what `down` makes the columns from `outer` on of the layer's outputs."""

    up: Tensor
    count: int
    inner: int
    outer: int

    @property
    def job(self) -> tuple[int, ...]:
        """As `kernels` names it."""
        _, rank, outputs = self.up.shape
        return self.up.data_ptr(), self.count, rank, outputs, self.inner, self.outer


class Packed:
    """The matrices of one layer: `down` (slots, width, inputs), a row for each rank of each projection, and stacks of those that make its outputs. vLLM's own tensors become views of them, so that what it loads is here."""

    def __init__(self, lora_a: Sequence[Tensor], lora_b: Sequence[Tensor]) -> None:
        slots, _, rank, inputs = lora_a[0].shape
        width = len(lora_a) * rank
        self.down = lora_a[0].new_zeros(slots, width + -width % TOGETHER, inputs)
        for i, a in enumerate(lora_a):
            _move(a, self.down[:, i * rank : (i + 1) * rank].unsqueeze(1))
        self.stacks: list[Stack] = []
        inner = outer = 0
        for outputs, alike in groupby(lora_b, key=lambda b: int(b.shape[2])):
            projections = list(alike)
            count = len(projections)
            up = projections[0].new_zeros(slots * count, rank, outputs)
            for i, b in enumerate(projections):
                _move(b, up[i::count].mT.unsqueeze(1))
            self.stacks.append(Stack(up, count, inner, outer))
            inner += count * rank
            outer += count * outputs
        self._job = np.array([*[0] * COLUMNS, outer, self.down.data_ptr(), *self.down.shape, len(self.stacks), *(number for stack in self.stacks for number in stack.job)], np.int64)
        self._multiply = multiplier(self._job, self.down.dtype)
        self.filled: set[int] = set()
        """Slots that have an adapter which changes this layer."""

    def look(self, slots: Collection[int]) -> None:
        """Notes which of `slots`, whose adapters are others than before, have one that changes this layer."""
        self.filled -= set(slots)
        self.filled |= {slot for slot in slots if self.down[slot].any()}

    def add(self, y: Tensor, x: Tensor, batch: Batch) -> None:
        """Adds to `y` (tokens, outputs) what the batch's adapters make of `x` (tokens, inputs). Raises TypeError where their numbers are of other kinds than the matrices'."""
        if batch.adapters.isdisjoint(self.filled):
            return
        if not x.dtype == y.dtype == self.down.dtype:
            raise TypeError(f"adapters in {self.down.dtype} for a layer that makes {y.dtype} of {x.dtype}")
        x, target = x.contiguous(), y.contiguous()
        GIVEN.pack_into(self._job.data, 0, 0, target.data_ptr(), x.data_ptr(), len(x), *batch.job)
        self._multiply(batch.threads)
        if target is not y:
            y.copy_(target)


def _move(tensor: Tensor, into: Tensor) -> None:
    """Makes `tensor` a view of `into`, with what it holds."""
    into.copy_(tensor)
    tensor.set_(into)
