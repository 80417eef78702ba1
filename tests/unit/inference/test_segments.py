"""Products of a batch by segments are those token by token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from llvmlite.binding import get_host_cpu_features
from numba import int64, njit, uint16
from numpy.typing import NDArray

from inference.engines import kernels
from inference.engines.kernels import ALONE, PADDING, TOGETHER
from inference.engines.segments import NONE, Packed, grouped

SLOTS, RANK, INPUTS = 5, 4, 13
Stretches = st.lists(st.tuples(st.integers(NONE, SLOTS - 1), st.integers(1, 3) | st.sampled_from((ALONE * TOGETHER, 3 * ALONE * TOGETHER))), min_size=1, max_size=12)
Filled = st.lists(st.booleans(), min_size=SLOTS, max_size=SLOTS)


def stacked(outputs: tuple[int, ...], rank: int = RANK, inputs: int = INPUTS) -> tuple[tuple[torch.Tensor, ...], tuple[torch.Tensor, ...]]:
    """Empty matrices as vLLM makes them."""
    return tuple(torch.zeros(SLOTS, 1, rank, inputs) for _ in outputs), tuple(torch.zeros(SLOTS, 1, outer, rank) for outer in outputs)


def load(lora_a: Sequence[torch.Tensor], lora_b: Sequence[torch.Tensor], slot: int) -> None:
    """As vLLM loads an adapter into a slot."""
    for a, b in zip(lora_a, lora_b, strict=True):
        _, _, rank, inputs = a.shape
        a[slot, 0, :rank, :inputs].copy_(torch.randn(rank, inputs))
        b[slot, 0, : b.shape[2], :rank].copy_(torch.randn(b.shape[2], rank))


def token_by_token(y: torch.Tensor, x: torch.Tensor, lora_a: Sequence[torch.Tensor], lora_b: Sequence[torch.Tensor], slots: list[int]) -> torch.Tensor:
    made = y.clone()
    for token, slot in enumerate(slots):
        if slot != NONE:
            made[token] += torch.cat([b[slot, 0] @ (a[slot, 0] @ x[token]) for a, b in zip(lora_a, lora_b, strict=True)])
    return made


@settings(deadline=None)
@given(stretches=Stretches, filled=Filled, outputs=st.sampled_from(((7,), (6, 6), (8, 4, 4))))
def test_in_bfloat16_it_is_the_same_but_for_rounding(stretches: list[tuple[int, int]], filled: list[bool], outputs: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    slots = [slot for slot, count in stretches for _ in range(count)]
    lora_a, lora_b = ([matrices.bfloat16() for matrices in side] for side in stacked(outputs))
    load(lora_a, lora_b, 0)
    layer = Packed(lora_a, lora_b)
    for slot in range(SLOTS):
        if filled[slot]:
            load(lora_a, lora_b, slot)
    layer.look(range(SLOTS))
    x, y = torch.randn(len(slots), INPUTS).bfloat16(), torch.randn(len(slots), sum(outputs)).bfloat16()
    expected = token_by_token(y.float(), x.float(), [a.float() for a in lora_a], [b.float() for b in lora_b], slots)
    layer.add(y, x, grouped(slots))
    torch.testing.assert_close(y.float(), expected, rtol=0.02, atol=0.5)


@settings(deadline=None)
@given(stretches=Stretches, filled=Filled, outputs=st.sampled_from(((7,), (6, 6), (8, 4, 4))), rank=st.sampled_from((1, 4, 6, 16)))
def test_what_is_added_is_what_each_adapter_makes_of_its_tokens(stretches: list[tuple[int, int]], filled: list[bool], outputs: tuple[int, ...], rank: int) -> None:
    torch.manual_seed(0)
    slots = [slot for slot, count in stretches for _ in range(count)]
    lora_a, lora_b = stacked(outputs, rank)
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
    assert batch.adapters == set(slots) - {NONE}


@pytest.mark.parametrize(
    ("slots", "blocks", "tokens"),
    [
        ([], [], []),
        ([NONE, NONE], [], []),
        ([3, NONE, 3, 1], [3, 1], [0, 2, PADDING, PADDING, 3, PADDING, PADDING, PADDING]),
        ([0] * 5 + [2] * 4, [0, 0, 2], [0, 1, 2, 3, 4, PADDING, PADDING, PADDING, 5, 6, 7, 8]),
    ],
    ids=["nothing", "the base alone", "two adapters and the base", "more than a block"],
)
def test_tokens_are_grouped_by_adapter_in_whole_blocks(slots: list[int], blocks: list[int], tokens: list[int]) -> None:
    batch = grouped(slots)
    assert batch.adapters == set(slots) - {NONE}
    assert (batch.slots.tolist(), batch.tokens.tolist()) == (blocks, tokens)


def test_what_is_no_number_stays_none_in_bfloat16() -> None:
    """Rounding by adding to its bits would make it zero."""
    layer = Packed(*([matrices.bfloat16() for matrices in side] for side in stacked((6,))))
    layer.filled = {0}
    y = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -0.0, 1.0]).bfloat16().view(1, 6)
    y.view(torch.uint16)[0, 0] = 0x7FFF
    before = y.clone()
    layer.add(y, torch.ones(1, INPUTS).bfloat16(), grouped([0]))
    torch.testing.assert_close(y, before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize(("rank", "inputs", "outputs"), [(4, INPUTS, (8, 4, 4)), (16, INPUTS, (7, 7)), (16, 256, (256, 128, 128)), (6, 64, (33,)), (16, 704, (40,)), (32, 100, (100, 20)), (5, 64, (8, 8, 8))])
def test_each_token_gets_the_same_from_any_number_of_threads_and_in_any_company(kind: torch.dtype, rank: int, inputs: int, outputs: tuple[int, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    lora_a, lora_b = ([matrices.to(kind) for matrices in side] for side in stacked(outputs, rank, inputs))
    for slot in range(SLOTS):
        load(lora_a, lora_b, slot)
    layer = Packed(lora_a, lora_b)
    layer.look(range(SLOTS))
    slots = [slot for _ in range(40) for slot in (0, 1, NONE, 2, 4, 4)]
    x, y = torch.randn(len(slots), inputs).to(kind), torch.randn(len(slots), sum(outputs)).to(kind)

    def made(where: slice) -> torch.Tensor:
        some = y[where].clone()
        layer.add(some, x[where], grouped(slots[where]))
        return some

    assert kernels._openmp() is not None
    before = torch.get_num_threads()
    try:
        several = []
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            several.append(made(slice(0, len(slots))))
    finally:
        torch.set_num_threads(before)
    monkeypatch.setattr(kernels, "_openmp", lambda: None)
    several += [made(slice(0, len(slots))), torch.cat([made(slice(at, at + 1)) for at in range(len(slots))])]
    assert all(torch.equal(several[0], one) for one in several)


def test_rows_need_not_lie_behind_one_another_but_be_of_the_same_numbers() -> None:
    lora_a, lora_b = stacked((6,))
    layer = Packed(lora_a, lora_b)
    load(lora_a, lora_b, 1)
    layer.look(range(SLOTS))
    x, y, slots = torch.randn(9, 2 * INPUTS), torch.randn(9, 8), [1] * 9
    wanted = token_by_token(y[:, 1:7], x[:, ::2], lora_a, lora_b, slots)
    untouched = y[:, [0, 7]]
    layer.add(y[:, 1:7], x[:, ::2], grouped(slots))
    torch.testing.assert_close(y[:, 1:7], wanted)
    assert torch.equal(y[:, [0, 7]], untouched)
    with pytest.raises(TypeError, match=r"float32 .*bfloat16"):
        layer.add(y[:, 1:7].bfloat16(), x[:, ::2], grouped(slots))


def test_where_nothing_can_be_written_the_loops_are_compiled_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    from numba.core.caching import CacheImpl

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    numbers = np.array([1, 2])

    @kernels.compiled(njit, int64[::1](int64[::1]))
    def doubled(numbers: NDArray[np.int64]) -> NDArray[np.int64]:
        return numbers * 2

    assert doubled(numbers).tolist() == [2, 4]


@pytest.mark.skipif(not get_host_cpu_features().get("avx512f"), reason="no registers of 512 bits: the processor is without AVX-512")
def test_products_take_the_widest_registers_that_there_are() -> None:
    kernels._work.compile((int64[::1], uint16[::1]))
    for assembly in kernels._work.inspect_asm().values():
        wide = [line for line in assembly.splitlines() if "vfmadd" in line and "zmm" in line]
        assert len(wide) >= 2 * TOGETHER**2  # of four tokens with four rows, in each of both loops


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
