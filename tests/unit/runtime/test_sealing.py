"""Sealed text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import IntegrityError
from runtime.sealing import Key, seal, unseal

KEY, OTHER = Key("document:a", b"k" * 32), Key("document:b", b"o" * 32)


@given(st.text(max_size=200))
def test_unseal_undoes_seal(text: str) -> None:
    assert unseal(KEY, "r", seal(KEY, "r", text)) == text


def test_the_same_text_seals_to_the_same_bytes() -> None:
    assert seal(KEY, "r", "text") == seal(KEY, "r", "text")


def test_nonces_differ_by_text_and_by_record() -> None:
    assert len({seal(KEY, record, text).nonce for record in "ab" for text in ("one", "two")}) == 4


@pytest.mark.parametrize(("key", "record"), [(OTHER, "r"), (KEY, "s")], ids=["another key", "another record"])
def test_sealed_text_opens_for_its_key_and_record_alone(key: Key, record: str) -> None:
    with pytest.raises(IntegrityError):
        unseal(key, record, seal(KEY, "r", "text"))


def test_a_key_does_not_show() -> None:
    assert "kkk" not in repr(KEY)
