"""Properties of the window: whatever ends when, and wherever a crash comes, each record is done once."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.window import SPAN, Window

GAPS = st.lists(st.integers(1, 40), min_size=1, max_size=60)


@given(gaps=GAPS, choices=st.randoms(use_true_random=False), crashes=st.integers(0, 6))
def test_each_record_is_done_once_over_crashes(gaps: list[int], choices: object, crashes: int) -> None:
    """Offsets have gaps, as markers of transactions make them; between crashes, records end and are committed in any order."""
    rng = choices
    offsets = [sum(gaps[: i + 1]) for i in range(len(gaps))]
    done: list[int] = []
    committed, metadata = None, ""
    for life in range(crashes + 1):
        window = Window(committed, metadata)
        begun = [offset for offset in offsets if (committed is None or offset >= committed) and window.begin(offset)]
        assert not set(begun) & set(done)
        last = life == crashes
        ended = begun if last else rng.sample(begun, rng.randint(0, len(begun)))  # type: ignore[attr-defined]
        while ended:
            some, ended = ended[:3], ended[3:]
            window.finish(some)
            done += some
            committed, metadata = window.next_offset, window.metadata
            assert all(offset in done for offset in offsets if offset < committed)
    assert sorted(done) == offsets
    assert committed == offsets[-1] + 1
    assert metadata == ""


def test_a_slow_record_lets_a_span_of_others_begin() -> None:
    window = Window(10)
    assert window.fits(10_000_000)  # nothing is in work
    window.begin(10)
    assert window.fits(10 + SPAN - 1)
    assert not window.fits(10 + SPAN)
    window.finish([10])
    assert window.fits(10 + SPAN)


def test_the_metadata_of_a_full_window_is_what_a_broker_takes() -> None:
    window = Window(0)
    for offset in range(SPAN):
        window.begin(offset)
    window.finish(range(1, SPAN))
    assert window.next_offset == 0
    assert len(window.metadata) < 4096


def test_what_is_read_again_is_not_begun_again() -> None:
    window = Window(5)
    assert window.begin(5)
    assert not window.begin(5)
    window.finish([5])
    assert not window.begin(5)
    assert not window.begin(3)


@pytest.mark.parametrize("metadata", ["somebody's note", "done:!", "done:é"])
def test_foreign_metadata_is_refused(metadata: str) -> None:
    with pytest.raises(ValueError, match="no list of finished offsets"):
        Window(0, metadata)
