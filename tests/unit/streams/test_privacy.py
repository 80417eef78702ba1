"""Personal data: what is found, what stands in its place."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.privacy import Pii, find, protect

SECRET = b"s" * 32
DATA = Path(__file__).parents[4] / "shared" / "data"
TEXT = "Write to ann.lee@example.com from 10.1.2.3, or call +1 415 555 2671; the card is 4111 1111 1111 1111, IBAN DE89370400440532013000."


def test_what_has_a_form_is_found() -> None:
    assert [(f.kind, TEXT[f.start : f.end]) for f in find(TEXT)] == [
        ("EMAIL_ADDRESS", "ann.lee@example.com"), ("IP_ADDRESS", "10.1.2.3"), ("PHONE_NUMBER", "+1 415 555 2671"), ("CREDIT_CARD", "4111 1111 1111 1111"), ("IBAN_CODE", "DE89370400440532013000"),
    ]  # fmt: skip


@pytest.mark.parametrize("text", ["order 3348917502 of 2019-11-06", "version 4.18.0 of ticket 12345678", "blk_38865049064139660 at 20:36:15", "it costs 1,234.56 euros", "rows 1000000 to 2000000"])
def test_numbers_of_other_things_are_left(text: str) -> None:
    assert find(text) == []


def test_policies() -> None:
    counts = {"CREDIT_CARD": 1, "EMAIL_ADDRESS": 1, "IBAN_CODE": 1, "IP_ADDRESS": 1, "PHONE_NUMBER": 1}
    assert protect(TEXT, Pii.OFF, SECRET) == (TEXT, {})
    assert protect(TEXT, Pii.TAG, SECRET) == (TEXT, counts)
    assert protect(TEXT, Pii.REDACT, SECRET) == ("Write to <EMAIL_ADDRESS> from <IP_ADDRESS>, or call <PHONE_NUMBER>; the card is <CREDIT_CARD>, IBAN <IBAN_CODE>.", counts)


def test_a_pseudonym_is_the_same_everywhere_and_needs_the_secret() -> None:
    one, _ = protect("Ask ann.lee@example.com today.", Pii.PSEUDONYMISE, SECRET)
    other, _ = protect("It was Ann.Lee@Example.com again, not bob@example.com!", Pii.PSEUDONYMISE, SECRET)
    (name,) = re.findall(r"<EMAIL_ADDRESS_[0-9a-f]{8}>", one)
    assert re.findall(r"<EMAIL_ADDRESS_[0-9a-f]{8}>", other)[0] == name
    assert len(set(re.findall(r"<EMAIL_ADDRESS_[0-9a-f]{8}>", other))) == 2
    assert name not in protect("Ask ann.lee@example.com today.", Pii.PSEUDONYMISE, b"t" * 32)[0]


@given(st.text(max_size=120))
def test_what_was_protected_holds_nothing_more_to_find(text: str) -> None:
    protected, counts = protect(text, Pii.REDACT, SECRET)
    assert protect(protected, Pii.TAG, SECRET)[1] == {}
    assert bool(counts) == (protected != text)


def test_logs_and_chats_that_people_wrote() -> None:
    """Recall against what the files' own structure says; what is found beside it is counted against us."""
    log, chats = DATA / "logs-loghub" / "OpenSSH_2k.log", DATA / "support-abcd-sample" / "abcd_sample.json"
    if not log.exists() or not chats.exists():
        pytest.skip(f"no logs and chats at {DATA}")
    lines = log.read_text().splitlines()
    addresses = [set(re.findall(r"(?<![\w.])\d{1,3}(?:\.\d{1,3}){3}(?![\w.-])", line)) for line in lines]
    found = [{line[f.start : f.end] for f in find(line)} for line in lines]
    wanted = sum(map(len, addresses))
    assert wanted > 1000
    assert sum(len(a & f) for a, f in zip(addresses, found, strict=True)) / wanted > 0.99
    assert sum(len(f - a) for a, f in zip(addresses, found, strict=True)) / len(lines) < 0.02
    for chat in json.loads(chats.read_text()):
        said = " ".join(text for _, text in chat["original"])
        # their phone numbers are invented, of areas that do not exist: phonenumbers knows them for none
        assert chat["scenario"]["personal"].get("email", "none") not in protect(said, Pii.REDACT, SECRET)[0]
