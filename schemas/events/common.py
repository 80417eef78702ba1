"""Records that others hold."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """Text under its owner's key: AES-256-GCM, the record's id as associated data."""

    key_id: str
    nonce: bytes
    ciphertext: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimCheck:
    """Where bytes lie that are too big for a message, and how to know that they are the right ones."""

    uri: str
    sha256: str
    size_bytes: int
