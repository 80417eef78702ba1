"""Whether memory was short."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch

from trainers.backends.trl import rows_at_once, rows_on_a_cpu
from trainers.memory import is_out_of_memory, kernel_kills, was_ended_for_memory


def test_an_allocation_that_fails_is_known() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert is_out_of_memory(caught.value)
    assert is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert is_out_of_memory(MemoryError())
    assert is_out_of_memory(OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)))
    assert not is_out_of_memory(RuntimeError("shapes do not match"))


def test_the_kernel_tells_what_it_ended(tmp_path: Path) -> None:
    vmstat = tmp_path / "vmstat"
    vmstat.write_text("nr_free_pages 5\noom_kill 3\nnuma_hit 9\n")
    assert kernel_kills(vmstat) == 3
    vmstat.write_text("nr_free_pages 5\n")
    assert kernel_kills(vmstat) is None
    assert kernel_kills(tmp_path / "nowhere") is None


@pytest.mark.parametrize(
    ("exit_code", "before", "after", "memory"),
    [(-9, 3, 4, True), (-9, 3, 3, False), (-9, None, None, True), (-15, 3, 4, False), (1, 3, 4, False)],
    ids=["by the kernel", "by somebody", "unknown", "told to end", "an error"],
)
def test_a_killed_process_took_too_much_where_the_kernel_did_it_or_does_not_tell(exit_code: int, before: int | None, after: int | None, memory: bool) -> None:
    assert was_ended_for_memory(exit_code, before, after) is memory


@pytest.mark.parametrize(("batch", "most", "halvings", "rows"), [(16, 8, 0, 8), (16, 16, 1, 8), (16, 8, 2, 2), (16, 8, 9, 1), (6, 8, 1, 3), (5, 8, 1, 1), (8, 2, 0, 2)])
def test_rows_are_halved_and_still_divide_the_batch(batch: int, most: int, halvings: int, rows: int) -> None:
    assert rows_at_once(batch, most, halvings) == rows
    assert batch % rows == 0


@pytest.mark.parametrize(("tokens", "rows"), [(30, 40), (75, 16), (150, 8), (1000, 8)])
def test_short_rows_are_more_at_once(tokens: int, rows: int) -> None:
    assert rows_on_a_cpu(tokens) == rows
