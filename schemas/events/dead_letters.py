"""Records that could not be processed. The fields are explained in the .avsc files."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.events.common import ClaimCheck


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """One header."""

    name: str
    value: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A record that could not be processed, and why. Key: the original's."""

    letter_id: str
    topic: str
    partition: int
    offset: int
    key: bytes | None = None
    value: bytes | None = None
    claim_check: ClaimCheck | None = None
    headers: tuple[Header, ...] = ()
    stage: str
    error_type: str
    message: str
    attempt: int = 1
