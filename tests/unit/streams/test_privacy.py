"""Personal data: what is found, what stands in its place."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
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


ADDRESS = re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\w.]*\d)")


def found_in(text: str) -> list[tuple[str, str]]:
    return [(one.kind, text[one.start : one.end]) for one in find(text)]


@pytest.mark.skipif(not (DATA / "logs-loghub").exists(), reason=f"no logs at {DATA}")
def test_logs_have_addresses_and_no_phones() -> None:
    """One line in forty of six systems' logs: every network address, and hardly a timestamp or a counter."""
    lines = [line for file in sorted((DATA / "logs-loghub").glob("*.log")) for line in file.read_text(errors="replace").splitlines()[::40]]
    wanted = [Counter(ADDRESS.findall(line)) for line in lines]
    found = [found_in(line) for line in lines]
    for addresses, one in zip(wanted, found, strict=True):
        assert not addresses - Counter(said for kind, said in one if kind == "IP_ADDRESS")
    assert sum(kind not in ("IP_ADDRESS", "EMAIL_ADDRESS") for one in found for kind, _ in one) <= len(lines) / 200


@pytest.mark.skipif(not (DATA / "support-abcd-sample").exists(), reason=f"no tickets at {DATA}")
def test_tickets_give_away_mail_and_phone_and_no_order_number() -> None:
    told = 0
    for conversation in json.loads((DATA / "support-abcd-sample" / "abcd_sample.json").read_text()):
        for kind, value in (("EMAIL_ADDRESS", conversation["scenario"]["personal"].get("email")), ("PHONE_NUMBER", conversation["scenario"]["personal"].get("phone"))):
            for _, said in conversation["original"]:
                if value and value in said:
                    told += 1
                    assert kind in [found for found, _ in found_in(said)]
    assert told
    with (DATA / "support-bitext" / "train.csv").open() as file:
        assert [found for row in list(csv.DictReader(file))[::40] for found in found_in(row["utterance"])] == []


@pytest.mark.parametrize("said", ["(977) 625-2661", "+49 30 901820", "020 7946 0958", "415-555-2671", "0171 2345678", "1-800-356-9377", "+91 98765 43210", "089/636-48018"])
def test_a_phone_is_found_as_people_write_it(said: str) -> None:
    assert found_in(f"call me at {said}, please") == [("PHONE_NUMBER", said)]
