"""The files of a version: an adapter's, or a base's. Written once by its run, fetched by whoever trains on it or serves it."""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import re
import shutil
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from safetensors import safe_open

from runtime.errors import IntegrityError, InvalidInput
from runtime.objects import Objects
from runtime.signing import NO_KEYS, Keys, verify
from schemas.events import AdapterVersion, ArtifactFile, ClaimCheck

CARD, MANIFEST = "README.md", "manifest.json"
"""What a version says of itself: to people, and to programs."""
ADAPTER_FILES = ("adapter_model.safetensors", "adapter_config.json")
"""Just these make an adapter, beside its card and its manifest; the first are its weights."""
PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9@._-]*")


def base_name(epoch: int, sha256: str) -> str:
    """What an adapter's configuration calls the base that it belongs to."""
    return f"base@{epoch}-{sha256[:8]}"


@cache
def weight_shapes(folder: Path) -> Mapping[str, tuple[int, ...]] | None:
    """The shapes of a model's weights by name, from the heads of its safetensors files; None where it has none."""
    found: dict[str, tuple[int, ...]] = {}
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, "np") as tensors:
            found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118  it is no dict
    return found or None


async def store(objects: Objects, prefix: str, folder: Path, names: Sequence[str]) -> tuple[ArtifactFile, ...]:
    """Writes the files `names` of `folder` under `prefix`. Raises Transient when the store can't take one."""
    files = []
    for name in names:
        data = (folder / name).read_bytes()
        await objects.put(f"{prefix}/{name}", data)
        files.append(ArtifactFile(path=name, sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data)))
    return tuple(files)


async def delete(version: AdapterVersion, objects: Objects, folder: Path) -> None:
    """Deletes the files of `version` from the store and from `folder`, where they were fetched to. Its manifest stays: it names examples and has no
    text. Raises Transient when the store fails."""
    prefix = version.artifact_uri.removeprefix(objects.url + "/")
    await objects.delete(f"{prefix}/{file.path}" for file in version.files if file.path != MANIFEST)
    shutil.rmtree(folder / version.engine_name, ignore_errors=True)


async def fetch(version: AdapterVersion, objects: Objects, folder: Path, keys: Keys = NO_KEYS) -> Path:
    """The files of `version` in a folder of its engine name below `folder`; one that is there was verified when it came.

    Raises:
        InvalidInput: a name is no plain file name.
        IntegrityError: a file is not what the registry says, or lies outside of the store; or the files are not signed by the public one of `keys`, where there is one.
    """
    for name in (version.engine_name, *(file.path for file in version.files)):
        if not PLAIN_NAME.fullmatch(name):
            raise InvalidInput(f"{version.engine_name}: {name!r} is no plain file name")
    target, partial = folder / version.engine_name, folder / f"{version.engine_name}.partial"
    if target.exists():
        return target
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("wb") as lock:  # two runs may need the same base
        await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
        if target.exists():
            return target
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        for file in version.files:
            check = ClaimCheck(uri=f"{version.artifact_uri}/{file.path}", sha256=file.sha256, size_bytes=file.size_bytes)
            (partial / file.path).write_bytes(await objects.claim(check))
        if keys.public:
            try:
                await asyncio.to_thread(verify, partial, keys.public)
            except IntegrityError as error:
                raise IntegrityError(f"{version.engine_name}: {error}") from error
        partial.rename(target)
    return target
