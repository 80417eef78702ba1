"""The object store: a folder, S3 and alike, by URL, through obstore."""

from __future__ import annotations

import hashlib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError
from obstore.store import LocalStore, ObjectStore, from_url

from runtime.errors import IntegrityError, Transient
from schemas.events import ClaimCheck


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

    async def claim(self, check: ClaimCheck) -> bytes:
        """The bytes of one of our own claim checks, verified.

        Raises:
            IntegrityError: the URI is outside this store, or size or digest differ.
        """
        name = check.uri.removeprefix(self.url + "/")
        if name == check.uri or ".." in name.split("/"):
            raise IntegrityError(f"{check.uri} is not in the object store {self.url}")
        data = await self.get(name)
        if len(data) != check.size_bytes or hashlib.sha256(data).hexdigest() != check.sha256:
            raise IntegrityError(f"{check.uri} has changed: {len(data)} bytes, {check.size_bytes} expected, or another digest")
        return data
