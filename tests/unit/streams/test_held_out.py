"""What models are judged by is found again among what they would learn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.encoder import minilm
from runtime.errors import SettingsError
from streams.held_out import NEAR, RUN_WORDS, SAME_WORDS, HeldOut, read_texts

WORDS = st.lists(st.text("abcdefgh", min_size=2, max_size=6), min_size=RUN_WORDS, max_size=20)


def blind(texts: Sequence[str]) -> NDArray[np.float32]:
    """An encoder for which nothing is near anything."""
    return np.zeros((len(texts), 2), np.float32)


@given(held=WORDS, before=WORDS, after=WORDS, data=st.data())
def test_eight_words_in_a_row_are_found_wherever_they_stand(held: list[str], before: list[str], after: list[str], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(held) - RUN_WORDS))
    quoted = " ".join([*before, *(word.upper() for word in held[at : at + RUN_WORDS])]) + "! " + " ".join(after)
    assert HeldOut([" ".join(held)], 0.9, blind).meets([quoted]) == [SAME_WORDS]


def test_paraphrases_are_near_and_other_requests_are_not() -> None:
    held = HeldOut(["please restart the greenhouse hub", "where is my invoice"], 0.9, lambda texts: minilm().encode(texts))
    assert held.meets(["restart the greenhouse hub please", "Where is my invoice?", "reset my password", "restart the router in the attic"]) == [NEAR, SAME_WORDS, None, None]
    assert held.meets([]) == []
    assert HeldOut([], 0.9, blind).meets(["anything"]) == [None]


def test_files_are_read_and_faults_are_named(tmp_path: Path) -> None:
    file = tmp_path / "set.jsonl"
    file.write_text('{"text": "one"}\n\n{"question": "two"}\n{"text": "one"}\n')
    assert read_texts([file]) == ["one", "two"]
    file.write_text('{"text": "one"}\n{"label": "x"}\n')
    with pytest.raises(SettingsError, match=r"set.jsonl:2 is no JSON object with a `text`"):
        read_texts([file])
    with pytest.raises(SettingsError, match=r"\[evaluation\] files: .*gone.jsonl: No such file"):
        read_texts([tmp_path / "gone.jsonl"])
