"""The object store: a folder, S3 and alike, by URL, through obstore."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from runtime.errors import IntegrityError, InvalidInput, Transient
from schemas.events import ClaimCheck

if TYPE_CHECKING:
    from obstore.store import ClientConfig

FETCH_ATTEMPTS = 4
FETCH_WAIT_SECONDS = 0.5
MAX_FETCHED_BYTES = 1 << 30


class Objects:
    """Named bytes under one URL. Names are relative paths; writing one twice is harmless."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        parts = urlsplit(url)
        self._store: ObjectStore = LocalStore(Path(unquote(parts.path)), mkdir=True) if parts.scheme == "file" else from_url(url)

    async def put(self, name: str, data: bytes) -> ClaimCheck:
        """Writes `data` under `name`. Raises Transient when the store can't take it."""
        try:
            await obstore.put_async(self._store, name, data)
        except (BaseError, OSError) as error:
            raise Transient(f"object store {self.url} can't write {name}: {error}") from error
        return ClaimCheck(uri=f"{self.url}/{name}", sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data))

    async def get(self, name: str) -> bytes:
        """The bytes under `name`. Raises IntegrityError when there are none, Transient when the store fails."""
        try:
            return bytes(await (await obstore.get_async(self._store, name)).bytes_async())
        except FileNotFoundError as error:
            raise IntegrityError(f"object store {self.url} has no {name}") from error
        except (BaseError, OSError) as error:
            raise Transient(f"object store {self.url} can't read {name}: {error}") from error

    async def delete(self, names: Iterable[str]) -> None:
        """Deletes what is under `names`; what is not there is deleted already. Raises Transient when the store fails."""
        for name in names:
            try:
                await obstore.delete_async(self._store, name)
            except FileNotFoundError:
                continue
            except (BaseError, OSError) as error:
                raise Transient(f"object store {self.url} can't delete {name}: {error}") from error

    async def names(self, prefix: str = "") -> list[str]:
        """All names under the folder `prefix`, sorted. Raises Transient when the store fails."""
        try:
            return sorted([found["path"] async for batch in obstore.list(self._store, prefix or None) for found in batch])
        except (BaseError, OSError) as error:
            raise Transient(f"object store {self.url} can't list {prefix}: {error}") from error

    def holds(self, uri: str) -> bool:
        """Whether `uri` names something in this store."""
        return _inside(self.url, uri) is not None

    async def claim(self, check: ClaimCheck) -> bytes:
        """The bytes of one of our own claim checks, verified.

        Raises:
            IntegrityError: the URI is outside this store, or size or digest differ.
        """
        name = _inside(self.url, check.uri)
        if name is None:
            raise IntegrityError(f"{check.uri} is not in the object store {self.url}")
        return verified(check, await self.get(name))


class Sources:
    """Stores of upstream's, which its claim checks may name: only what lies under one of `prefixes` is ever read."""

    def __init__(self, prefixes: Iterable[str], attempts: int = FETCH_ATTEMPTS, wait_seconds: float = FETCH_WAIT_SECONDS) -> None:
        self._prefixes = sorted((prefix.rstrip("/") for prefix in prefixes), key=len, reverse=True)
        self._attempts, self._wait = attempts, wait_seconds
        self._stores: dict[str, ObjectStore] = {}

    async def fetch(self, check: ClaimCheck) -> bytes:
        """The bytes of a claim check, verified.

        Raises:
            IntegrityError: a place that is not allowed, a size that is not, or bytes that are not what the claim check says.
            InvalidInput: it could not be fetched in several attempts.
        """
        prefix = next((p for p in self._prefixes if _inside(p, check.uri) is not None), None)
        if prefix is None:
            raise IntegrityError(f"{check.uri} is under none of [documents] sources: {', '.join(self._prefixes) or 'none is declared'}")
        if check.size_bytes > MAX_FETCHED_BYTES:
            raise IntegrityError(f"{check.uri} has {check.size_bytes} bytes, {MAX_FETCHED_BYTES} at most")
        fault: Exception | None = None
        for attempt in range(self._attempts):
            if attempt:
                await asyncio.sleep(random.uniform(0.5, 1.5) * self._wait * 2 ** (attempt - 1))
            try:
                found = await obstore.get_async(self._store(prefix), str(_inside(prefix, check.uri)))
                if found.meta["size"] > MAX_FETCHED_BYTES:
                    raise IntegrityError(f"{check.uri} has {found.meta['size']} bytes, {MAX_FETCHED_BYTES} at most")
                return verified(check, bytes(await found.bytes_async()))
            except (BaseError, OSError) as error:
                fault = error
        raise InvalidInput(f"{check.uri} could not be fetched in {self._attempts} attempts: {fault}") from fault

    def _store(self, prefix: str) -> ObjectStore:
        if prefix not in self._stores:
            parts = urlsplit(prefix)
            options: ClientConfig = {"allow_http": parts.scheme == "http"}
            self._stores[prefix] = LocalStore(Path(unquote(parts.path))) if parts.scheme == "file" else from_url(prefix, client_options=options)
        return self._stores[prefix]


def verified(check: ClaimCheck, data: bytes) -> bytes:
    """`data`, if it is what `check` says. Raises IntegrityError otherwise."""
    if len(data) != check.size_bytes or hashlib.sha256(data).hexdigest() != check.sha256:
        raise IntegrityError(f"{check.uri} has changed: {len(data)} bytes, {check.size_bytes} expected, or another digest")
    return data


def _inside(url: str, uri: str) -> str | None:
    """The name of `uri` under `url`; None where it is not under it, also by dots."""
    name = unquote(uri.removeprefix(url + "/"))
    return None if uri == uri.removeprefix(url + "/") or not name or {".", ".."} & set(name.split("/")) or "?" in name or "#" in name else name
