"""How prompts are put together to be answered at once."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trainers.generate import BATCH_ROWS, BATCH_TOKENS, batched


@given(st.lists(st.integers(1, 2 * BATCH_TOKENS), max_size=300).map(sorted))
def test_batches_cover_all_in_order_and_keep_the_bounds(lengths: list[int]) -> None:
    batches = list(batched(lengths))
    assert [place for batch in batches for place in batch] == list(range(len(lengths)))
    assert all(len(batch) == 1 or (len(batch) <= BATCH_ROWS and len(batch) * lengths[batch[-1]] <= BATCH_TOKENS) for batch in batches)
    assert all(batches)
