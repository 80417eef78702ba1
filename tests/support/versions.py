"""Versions in a store and keys to sign them with, for tests of what fetches them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from runtime.artifacts import store
from runtime.objects import Objects
from runtime.signing import Keys
from schemas.events import AdapterVersion


def new_keys(folder: Path, name: str = "key") -> Keys:
    """A key in two files below `folder`."""
    private = ec.generate_private_key(ec.SECP256R1())
    (folder / f"{name}.pem").write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (folder / f"{name}.pub").write_bytes(private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return Keys(folder / f"{name}.pem", folder / f"{name}.pub")


def stored_version(folder: Path, objects: Objects, number: int, files: Mapping[str, bytes], verdict: str = "") -> AdapterVersion:
    """A version of `tool` whose files, made below `folder`, are in `objects`."""
    made, prefix = folder / "made", f"adapters/tool/{number}"
    made.mkdir()
    for name, data in files.items():
        (made / name).write_bytes(data)
    stored = asyncio.run(store(objects, prefix, made, tuple(files)))
    return AdapterVersion(
        version=number, engine_name=f"tool@{number}-1a2b3c4d", base_epoch=0, artifact_uri=f"{objects.url}/{prefix}", files=stored, run_id="r", recipe_hash="", manifest_sha256="", rank=8, metrics={}, verdict=verdict,
    )  # fmt: skip
