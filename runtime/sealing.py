"""Sealed text, and the port behind which its keys live.

AES-256-GCM; the nonce is an HMAC of key, associated data and text, so that sealing the same text for the same record
twice gives the same bytes (a replay is byte for byte), and different texts meet with probability 2^-96 a pair.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import asyncpg
from cachetools import TTLCache
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from runtime.errors import IntegrityError, KeyDestroyed
from schemas.events import Sealed

HASH_OWNER = "system:hashes"
HELD_KEYS, HELD_SECONDS = 10_000, 10.0


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

    async def hold(self, owners: Iterable[str]) -> None:
        """Reads the keys of many owners at once; those that have none, or are destroyed, are left to `key`."""

    async def destroy(self, owner: str) -> None:
        """Forgets the owner's texts, everywhere and for good."""


def seal_bytes(key: Key, record_id: str, data: bytes) -> tuple[bytes, bytes]:
    """Nonce and ciphertext of `data`, bound to `record_id`."""
    nonce = hmac.digest(key.secret, record_id.encode() + b"\0" + data, "sha256")[:12]
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
    """Keys in the table `keys`. The one state that topics can't rebuild: back it up apart.

    A key is held for HELD_SECONDS, so that one that was destroyed is used no longer than that by any process, and of so many owners
    that memory stays flat.
    """

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._held: TTLCache[str, Key] = TTLCache(HELD_KEYS, HELD_SECONDS)

    async def hold(self, owners: Iterable[str]) -> None:
        wanted = [owner for owner in dict.fromkeys(owners) if owner not in self._held]
        if wanted:
            for row in await self._pool.fetch("SELECT owner, secret FROM keys WHERE owner = ANY($1) AND secret IS NOT NULL", wanted):
                self._held[row["owner"]] = Key(row["owner"], row["secret"])

    async def key(self, owner: str) -> Key:
        held = self._held.get(owner)
        if held is not None:
            return held
        row = await self._pool.fetchrow("SELECT secret FROM keys WHERE owner = $1", owner)
        while row is None:
            await self._pool.execute("INSERT INTO keys (owner, secret) VALUES ($1, $2) ON CONFLICT (owner) DO NOTHING", owner, secrets.token_bytes(32))
            row = await self._pool.fetchrow("SELECT secret FROM keys WHERE owner = $1", owner)
        if row["secret"] is None:
            raise KeyDestroyed(f"the key of {owner} was destroyed: its text is forgotten")
        key = self._held[owner] = Key(owner, row["secret"])
        return key

    async def destroy(self, owner: str) -> None:
        await self._pool.execute(
            "INSERT INTO keys (owner, secret) VALUES ($1, NULL) ON CONFLICT (owner) DO UPDATE SET secret = NULL, destroyed_at = coalesce(keys.destroyed_at, now())", owner
        )
        self._held.pop(owner, None)
