"""Sealed text, and the port behind which its keys live.

AES-256-GCM; the nonce is an HMAC of key, associated data and text, so that sealing the same text for the same record
twice gives the same bytes (a replay is byte for byte), and different texts meet with probability 2^-96 a pair.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass
from typing import Protocol

import asyncpg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runtime.errors import IntegrityError, KeyDestroyed
from schemas.events import Sealed

HASH_OWNER = "system:hashes"


@dataclass(frozen=True, slots=True)
class Key:
    """An owner's key: 32 bytes that never show in a representation."""

    key_id: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Key({self.key_id!r})"


class KeyStore(Protocol):
    """Keys by owner, such as `doc:manual-7`."""

    async def key(self, owner: str) -> Key:
        """The owner's key, made at first use. Raises KeyDestroyed for a forgotten owner."""

    async def destroy(self, owner: str) -> None:
        """Forgets the owner's texts, everywhere and for good."""


def seal_bytes(key: Key, record_id: str, data: bytes) -> tuple[bytes, bytes]:
    """Nonce and ciphertext of `data`, bound to `record_id`."""
    nonce = hmac.new(key.secret, record_id.encode() + b"\0" + data, hashlib.sha256).digest()[:12]
    return nonce, AESGCM(key.secret).encrypt(nonce, data, record_id.encode())


def open_bytes(key: Key, record_id: str, nonce: bytes, ciphertext: bytes) -> bytes:
    """What `seal_bytes` sealed.

    Raises:
        IntegrityError: another key, another record's text, or changed bytes.
    """
    try:
        return AESGCM(key.secret).decrypt(nonce, ciphertext, record_id.encode())
    except (InvalidTag, ValueError) as error:
        raise IntegrityError(f"sealed text of {record_id} does not open with key {key.key_id}") from error


def seal(key: Key, record_id: str, text: str) -> Sealed:
    """`text` sealed under `key` for the record `record_id`."""
    nonce, ciphertext = seal_bytes(key, record_id, text.encode())
    return Sealed(key_id=key.key_id, nonce=nonce, ciphertext=ciphertext)


def unseal(key: Key, record_id: str, sealed: Sealed) -> str:
    """The text in `sealed`. Raises IntegrityError as `open_bytes` does."""
    return open_bytes(key, record_id, sealed.nonce, sealed.ciphertext).decode()


class PostgresKeys:
    """Keys in the table `keys`. The one state that topics can't rebuild: back it up apart."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._known: dict[str, Key] = {}

    async def key(self, owner: str) -> Key:
        if owner in self._known:
            return self._known[owner]
        row = await self._pool.fetchrow(
            "INSERT INTO keys (owner, secret) VALUES ($1, $2) ON CONFLICT (owner) DO UPDATE SET owner = keys.owner RETURNING secret",
            owner,
            secrets.token_bytes(32),
        )
        if row["secret"] is None:
            raise KeyDestroyed(f"the key of {owner} was destroyed: its text is forgotten")
        self._known[owner] = Key(owner, row["secret"])
        return self._known[owner]

    async def destroy(self, owner: str) -> None:
        await self._pool.execute(
            "INSERT INTO keys (owner, secret) VALUES ($1, NULL) ON CONFLICT (owner) DO UPDATE SET secret = NULL, destroyed_at = now()", owner
        )
        self._known.pop(owner, None)
