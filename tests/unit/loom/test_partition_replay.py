"""What a replay compares."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from loom.partition_replay import DIGESTS, NOTHING, Digest


@given(st.lists(st.binary(), min_size=1, unique=True), st.randoms(use_true_random=False), st.integers(0, 20))
def test_a_digest_knows_no_order_and_no_partitions_and_misses_nothing(records: list[bytes], chance: object, cut: int) -> None:
    whole = sum(map(Digest.of, records), NOTHING)
    shuffled = records.copy()
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    parts = [sum(map(Digest.of, shuffled[:cut]), NOTHING), sum(map(Digest.of, shuffled[cut:]), NOTHING)]
    assert parts[0] + parts[1] == whole
    assert whole.count == len(records)
    assert 0 <= whole.total < DIGESTS
    assert len(whole.hexadecimal) == 64
    lacking = sum(map(Digest.of, records[1:]), NOTHING)
    assert lacking.total != whole.total
    twice = sum(map(Digest.of, [records[0], *records]), NOTHING)
    assert twice.total != whole.total
