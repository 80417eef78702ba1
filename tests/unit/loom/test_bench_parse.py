"""The share of another parser's text that ours has."""

from __future__ import annotations

from loom.bench.parse import recall


def test_order_hyphens_and_unread_glyphs_do_not_count_and_missing_text_does() -> None:
    theirs = ["The hub pairs with sixty de- vices.", "Concrete walls shorten the range.", "(cid:51) (cid:55)", "40 lamps"]
    assert recall(["lamps: 40", "Concrete walls shorten the range.", "The hub pairs with sixty devices."], theirs) == 1.0
    assert 0.3 < recall(["The hub pairs with sixty devices."], theirs) < 0.6
    assert recall([], theirs) == 0.0
