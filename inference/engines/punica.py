"""vLLM's port for LoRA on a CPU, by segments.

Its own operators there copy an adapter's matrices once for each token of a batch, in turn for each projection that a layer has packed in one; and a token without an
adapter, whose slot is -1, gets what the last slot holds. Measured in docs/benchmarks.md.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from inference.engines.segments import NONE, Batch, Packed, grouped


class SegmentedLora(PunicaWrapperCPU):
    """Ids of adapters are never used twice (`VllmEngine`): a slot whose id is as before holds what it held."""

    def __init__(self, *where: Any, **how: Any) -> None:
        super().__init__(*where, **how)
        self._layers: dict[int, tuple[Packed, int]] = {}
        """By the identity of a layer's first tensor, with the round in which it was looked at."""
        self._filled: dict[int, tuple[set[int], int]] = {}
        """Of tensors of the embedding and the head, in the same way: the slots that have a number in them that is not 0."""
        self._told: list[int | None] = []
        self._loaded: list[int | None] = []
        self._round = 0
        """Counts the changes of what is in slots."""
        self._changed: list[int] = []
        """The round in which each slot's adapter came, or went."""
        self._came_since: dict[int, list[int]] = {}
        self._slots: list[int] = []
        """Of the step's tokens."""
        self._batch: Batch | None = None

    def update_metadata(self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **how: Any) -> None:
        """Told by vLLM before a step whose requests differ from the last one's."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **how)
        if lora_index_to_id is not self._told or lora_index_to_id != self._loaded:
            self._round += 1
            before = self._loaded if lora_index_to_id is self._told else []  # vLLM begins another list where all adapters go, as after its warming up
            self._changed = [self._changed[slot] if before[slot : slot + 1] == [number] else self._round for slot, number in enumerate(lora_index_to_id)]
            self._told, self._loaded = lora_index_to_id, list(lora_index_to_id)
            self._came_since.clear()
        self._slots, self._batch = self.token_lora_indices.tolist(), None

    def add_lora_linear(
        self, y: Tensor, x: Tensor, lora_a_stacked: tuple[Tensor, ...], lora_b_stacked: tuple[Tensor, ...], scale: float, output_slices: tuple[int, ...], *, buffer: Any = None, **how: Any,
    ) -> None:  # fmt: skip
        """Adds to `y` (tokens, outputs) what the adapters of the batch make of `x` (tokens, inputs)."""
        if self._batch is None:
            self._batch = grouped(self._slots)
        if self._batch.adapters:
            self._layer(lora_a_stacked, lora_b_stacked).add(y, x, self._batch)

    def _layer(self, lora_a: Sequence[Tensor], lora_b: Sequence[Tensor]) -> Packed:
        key = id(lora_a[0])
        known = self._layers.get(key)
        if known is not None and known[1] == self._round:
            return known[0]
        layer, looked = known or (Packed(lora_a, lora_b), 0)
        layer.look(self._came(looked))
        self._layers[key] = layer, self._round
        return layer

    def add_lora_logits(self, y: Tensor, x: Tensor, lora_a_stacked: Tensor, lora_b_stacked: Tensor, scale: float, *, buffer: Tensor | None = None, **how: Any) -> None:
        """As vLLM does it, where an adapter changes the head at all."""
        if self._any(lora_a_stacked):
            with _unchanged(y, self.sampler_indices == NONE):
                super().add_lora_logits(y, x, lora_a_stacked, lora_b_stacked, scale, buffer=buffer, **how)

    def add_lora_embedding(self, y: Tensor, x: Tensor, lora_b_stacked: Tensor, add_inputs: bool = True, **how: Any) -> None:
        """As vLLM does it, where an adapter changes the embedding at all."""
        if self._any(lora_b_stacked):
            with _unchanged(y, self.token_lora_indices == NONE):
                super().add_lora_embedding(y, x, lora_b_stacked, add_inputs, **how)

    def _any(self, stacked: Tensor) -> bool:
        """Whether any slot that has an adapter has a number in `stacked` that is not 0."""
        filled, looked = self._filled.get(id(stacked), (set[int](), 0))
        if looked != self._round:
            came = {slot for slot in self._came(looked) if stacked[slot].any()}
            filled = came | {slot for slot in filled if self._changed[slot] <= looked}
            self._filled[id(stacked)] = filled, self._round
        return bool(filled)

    def _came(self, looked: int) -> list[int]:
        """The slots whose adapters came after the round `looked`."""
        if looked not in self._came_since:
            self._came_since[looked] = [slot for slot, (changed, number) in enumerate(zip(self._changed, self._loaded, strict=True)) if changed > looked and number is not None]
        return self._came_since[looked]


@contextmanager
def _unchanged(y: Tensor, rows: Tensor) -> Iterator[None]:
    """Whatever is added to `y` meanwhile, the rows that are true in `rows` stay as they were."""
    kept = y[rows]
    yield
    y[rows] = kept
