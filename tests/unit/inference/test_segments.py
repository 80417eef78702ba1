"""Products of a batch by segments are those token by token."""

from __future__ import annotations

from collections.abc import Sequence
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from inference.engines import segments
from inference.engines.segments import LONG, NONE, Packed, grouped

SLOTS, RANK, INPUTS = 5, 4, 12
Stretches = st.lists(st.tuples(st.integers(NONE, SLOTS - 1), st.integers(1, 3) | st.sampled_from((LONG - 1, LONG, 2 * LONG))), min_size=1, max_size=12)
Filled = st.lists(st.booleans(), min_size=SLOTS, max_size=SLOTS)


def stacked(outputs: tuple[int, ...]) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Empty matrices as vLLM makes them."""
    return tuple(torch.zeros(SLOTS, 1, RANK, INPUTS) for _ in outputs), tuple(torch.zeros(SLOTS, 1, outer, RANK) for outer in outputs)


def load(lora_a: Sequence[torch.Tensor], lora_b: Sequence[torch.Tensor], slot: int) -> None:
    """As vLLM loads an adapter into a slot."""
    for a, b in zip(lora_a, lora_b, strict=True):
        a[slot, 0, :RANK, :INPUTS].copy_(torch.randn(RANK, INPUTS))
        b[slot, 0, : b.shape[2], :RANK].copy_(torch.randn(b.shape[2], RANK))


def token_by_token(y: torch.Tensor, x: torch.Tensor, lora_a: Sequence[torch.Tensor], lora_b: Sequence[torch.Tensor], slots: list[int]) -> torch.Tensor:
    made = y.clone()
    for token, slot in enumerate(slots):
        if slot != NONE:
            made[token] += torch.cat([b[slot, 0] @ (a[slot, 0] @ x[token]) for a, b in zip(lora_a, lora_b, strict=True)])
    return made


@settings(deadline=None)
@given(stretches=Stretches, filled=Filled, outputs=st.sampled_from(((7,), (6, 6), (8, 4, 4))), small=st.sampled_from((0, segments.LEAST * INPUTS, segments.SMALL)))
def test_in_bfloat16_it_is_the_same_but_for_rounding_also_where_small_inputs_are_multiplied_in_float32(stretches: list[tuple[int, int]], filled: list[bool], outputs: tuple[int, ...], small: int) -> None:
    torch.manual_seed(0)
    slots = [slot for slot, count in stretches for _ in range(count)]
    lora_a, lora_b = ([matrices.bfloat16() for matrices in side] for side in stacked(outputs))
    load(lora_a, lora_b, 0)
    with patch.object(segments, "SMALL", small):
        layer = Packed(lora_a, lora_b)
        for slot in range(SLOTS):
            if filled[slot]:
                load(lora_a, lora_b, slot)
        layer.look(range(SLOTS))
        x, y = torch.randn(len(slots), INPUTS).bfloat16(), torch.randn(len(slots), sum(outputs)).bfloat16()
        expected = token_by_token(y.float(), x.float(), [a.float() for a in lora_a], [b.float() for b in lora_b], slots)
        layer.add(y, x, grouped(slots, y.dtype))
    torch.testing.assert_close(y.float(), expected, rtol=0.02, atol=0.5)


@settings(deadline=None)
@given(stretches=Stretches, filled=Filled, outputs=st.sampled_from(((7,), (6, 6), (8, 4, 4))))
def test_what_is_added_is_what_each_adapter_makes_of_its_tokens(stretches: list[tuple[int, int]], filled: list[bool], outputs: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    slots = [slot for slot, count in stretches for _ in range(count)]
    lora_a, lora_b = stacked(outputs)
    load(lora_a, lora_b, 0)  # there before the matrices are packed, as others come after it
    layer = Packed(lora_a, lora_b)
    for slot in range(SLOTS):
        if filled[slot]:
            load(lora_a, lora_b, slot)
    layer.look(range(SLOTS))
    assert layer.filled == {0} | {slot for slot in range(SLOTS) if filled[slot]}
    x, y = torch.randn(len(slots), INPUTS), torch.randn(len(slots), sum(outputs))
    expected = token_by_token(y, x, lora_a, lora_b, slots)
    batch = grouped(slots)
    layer.add(y, x, batch)
    torch.testing.assert_close(y, expected)
    assert batch.slots == set(slots) - {NONE}


@pytest.mark.parametrize(
    ("slots", "runs", "bundles"),
    [
        ([], 0, 0),
        ([NONE] * 40, 0, 0),
        ([3] * 4, 1, 0),
        ([0, 1, 2, 3] * 8, 0, 1),
        ([0] * LONG + [1] * LONG + [0, 1, NONE], 2, 1),
        ([0] * 20 + [1, 2, 3], 0, 2),
    ],
    ids=["nothing", "the base alone", "one adapter", "one token each", "prompts beside answers", "many beside few"],
)
def test_prompts_go_alone_and_single_tokens_together(slots: list[int], runs: int, bundles: int) -> None:
    batch = grouped(slots)
    assert (len(batch.runs), len(batch.bundles)) == (runs, bundles)


def test_prompts_in_bfloat16_are_gathered_up_to_a_greater_length() -> None:
    slots = [0] * (segments.LONG_IN_BFLOAT16 - 1) + [1] * segments.LONG_IN_BFLOAT16
    batch = grouped(slots, torch.bfloat16)
    assert (len(batch.runs), len(batch.bundles)) == (1, 1)


@pytest.mark.parametrize(("slots", "read"), [([4, 0, 2], slice(0, 5)), ([9, 0, 0, 1], [0, 1, 9])], ids=["holes between them are read too", "too many to read"])
def test_matrices_lie_where_they_are_unless_slots_are_far_apart(slots: list[int], read: slice | list[int]) -> None:
    (bundle,) = grouped(slots).bundles
    assert bundle.slots == read if isinstance(bundle.slots, slice) else bundle.slots.tolist() == read
    matrices = torch.randn(10 * 2, 3, 4)
    wanted = matrices.view(10, 2, 3, 4)[read].flatten(0, 1)
    assert torch.equal(bundle.of(matrices, 2), wanted)
    assert (bundle.of(matrices, 2).untyped_storage().data_ptr() == matrices.untyped_storage().data_ptr()) == isinstance(read, slice), "copied only where it must be"


def test_an_unloaded_slot_changes_nothing_any_more() -> None:
    lora_a, lora_b = stacked((6,))
    layer = Packed(lora_a, lora_b)
    load(lora_a, lora_b, 2)
    layer.look(range(SLOTS))
    lora_a[0][2], lora_b[0][2] = 0, 0
    layer.look(range(SLOTS))
    y = torch.ones(3, 6)
    layer.add(y, torch.randn(3, INPUTS), grouped([2, 2, 2]))
    assert torch.equal(y, torch.ones(3, 6))
