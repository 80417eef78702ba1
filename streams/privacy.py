"""Personal data in documents, found before any teacher or training sees the text.

By presidio's recognisers of what has a form: addresses of mail and network, phone, card, account and social security numbers,
wallets. Names of people and places have none, and are not found.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

from streams.imports import without_torch

DIGITS = re.compile(r"(?:\d[\s().+/-]*){7}")
"""Fewer make no number of a phone, a card or an account."""
MIN_SCORE = 0.4
PHONE, CARD = "PHONE_NUMBER", "CREDIT_CARD"
NUMBER = re.compile(r"\d+(?:\.\d+)?")
"""A run of digits alone is rather an order's number than a phone's, or a duration."""
DIALLED = re.compile(r"\+\d|\(\d{2,5}\)[ -]?\d")
"""What begins like this is a phone's number though its groups are not those of its country."""
BEFORE, BEHIND = re.compile(r"[\w.:/-]$"), re.compile(r"\w|[.:/-]\w")
"""Part of a longer token."""
STRICT_GROUPING = 2
"""phonenumbers' Leniency: a timestamp or an address is a valid number of some country, but not in its groups."""
ISSUED = re.compile(r"4(?:\d{12}|\d{15}|\d{18})|[25]\d{15}|3[47]\d{13}|3[068]\d{12}|6\d{15}(?:\d{3})?")
"""First digits and lengths of card numbers (ISO/IEC 7812): one in ten of all numbers has the right check digit."""
PSEUDONYM_BYTES = 4


class Pii(StrEnum):
    """What is done with personal data: nothing; counted; replaced by its kind; replaced by a pseudonym, the same for the same everywhere."""

    OFF = "off"
    TAG = "tag"
    REDACT = "redact"
    PSEUDONYMISE = "pseudonymise"


@dataclass(frozen=True, slots=True)
class Found:
    """A piece of personal data in a text, [start, end)."""

    start: int
    end: int
    kind: str
    score: float


def find(text: str) -> list[Found]:
    """All personal data of `text` in order; of what overlaps the surer, then the longer."""
    results = [r for one in _recognisers(bool(DIGITS.search(text))) for r in one.analyze(text, one.supported_entities)]
    seen = [Found(r.start, r.end, r.entity_type, r.score) for r in results if r.score >= MIN_SCORE and _plausible(r.entity_type, text, r.start, r.end)]
    kept: list[Found] = []
    for found in sorted(seen, key=lambda f: (-f.score, f.start - f.end, f.start)):
        if all(found.end <= other.start or other.end <= found.start for other in kept):
            kept.append(found)
    return sorted(kept, key=lambda f: f.start)


def _plausible(kind: str, text: str, start: int, end: int) -> bool:
    """Whether what a recogniser took for personal data is no other number: logs are full of them."""
    said = text[start:end]
    if kind == CARD:
        return ISSUED.fullmatch("".join(filter(str.isdigit, said))) is not None
    if kind != PHONE:
        return True
    inside = BEFORE.search(text[:start]) or BEHIND.match(text, end)
    return not inside and not NUMBER.fullmatch(said) and (DIALLED.match(said) is not None or _is_grouped(said))


def _is_grouped(number: str) -> bool:
    import phonenumbers
    from presidio_analyzer.predefined_recognizers import PhoneRecognizer

    return any(phonenumbers.PhoneNumberMatcher(number, region, leniency=STRICT_GROUPING).has_next() for region in PhoneRecognizer.DEFAULT_SUPPORTED_REGIONS)


def protect(text: str, policy: Pii, secret: bytes) -> tuple[str, Mapping[str, int]]:
    """`text` under `policy`, and how much of each kind was in it. Pure.

    A pseudonym is a keyed hash: nobody who lacks `secret` can try values against it.
    """
    found = find(text) if policy is not Pii.OFF else []
    if policy in (Pii.REDACT, Pii.PSEUDONYMISE):
        for one in reversed(found):
            text = text[: one.start] + _stand_in(one.kind, text[one.start : one.end], policy, secret) + text[one.end :]
    return text, dict(sorted(Counter(one.kind for one in found).items()))


def _stand_in(kind: str, value: str, policy: Pii, secret: bytes) -> str:
    if policy is Pii.REDACT:
        return f"<{kind}>"
    plain = "".join(value.split()).casefold()
    return f"<{kind}_{hashlib.blake2b(f'{kind}:{plain}'.encode(), key=secret[:64], digest_size=PSEUDONYM_BYTES).hexdigest()}>"


@cache
def _recognisers(with_numbers: bool) -> tuple[Any, ...]:
    """Recognisers that need no language model; those of numbers only where there are digits enough."""
    import tldextract

    with without_torch():
        from presidio_analyzer.predefined_recognizers import CreditCardRecognizer, CryptoRecognizer, EmailRecognizer, IbanRecognizer, IpRecognizer, PhoneRecognizer, UsSsnRecognizer

    # the list of domains that comes in the wheel: nothing is fetched
    tldextract.extract = tldextract.TLDExtract(suffix_list_urls=(), cache_dir=None)
    always = (EmailRecognizer(), IpRecognizer(), CryptoRecognizer())
    return (*always, PhoneRecognizer(), CreditCardRecognizer(), IbanRecognizer(), UsSsnRecognizer()) if with_numbers else always
