"""What the benchmarks of the streams measure, on real pages; those are not part of the project, without them this is skipped."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from loom.bench.dedup import accuracy, editions, judged, shares, store
from runtime.errors import SettingsError
from streams.cut import token_counter

ROOT = Path(__file__).parents[2]
PAIRS = ROOT.parent / "shared" / "data" / "docs-near-duplicates"


def test_twins_of_two_editions_are_found() -> None:
    if not PAIRS.exists():
        pytest.skip(f"no pairs at {PAIRS}")
    pairs = editions(PAIRS)
    pieces = judged(PAIRS, pairs, token_counter(str(ROOT / "models" / "base")))
    recall, precision = accuracy(pieces)
    assert recall > 0.95
    assert precision > 0.95
    found = shares(pieces, pairs)
    assert found["identical"] == 1.0
    assert found["near"] > 0.8
    assert found["changed"] < 0.3


def test_a_folder_without_pairs_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"pairs.csv is missing"):
        editions(tmp_path)


def test_verdicts_do_not_slow_down_as_the_store_fills() -> None:
    texts = [" ".join(f"w{i * j % 997}" for j in range(90)) for i in range(1, 60)]
    rows = {row.what: row for row in asyncio.run(store(texts, 3000, 5))}
    assert rows["the last round of 5 over the first"].ours > 0.5
