"""Signatures of versions, as OpenSSF Model Signing v1.0 makes them: a list of files and digests, signed with an elliptic-curve key of the operator's.

The registry's hashes tell whether files are those that a record names; a signature tells who made them, also to somebody who trusts neither topic nor store.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import IntegrityError, SettingsError

SIGNATURE = "model.sig"
"""Beside the files that it is of."""


@dataclass(frozen=True, slots=True)
class Keys:
    """PEM files: of the private key that what is made here is signed with, and of the public one that what is fetched must be signed by."""

    private: Path | None = None
    public: Path | None = None

    def check(self) -> None:
        """Raises SettingsError where a key is named that is not there, or nothing could use it."""
        for variable, key in (("LOOM_SIGNING_KEY", self.private), ("LOOM_VERIFYING_KEY", self.public)):
            if key is None:
                continue
            if not key.is_file():
                raise SettingsError(f"{variable}: there is no file {key}")
            try:
                import model_signing  # noqa: F401
            except ImportError as error:
                raise SettingsError(f"{variable} needs the package model-signing: install loraloom[signing]") from error


NO_KEYS = Keys()


def sign(folder: Path, names: Sequence[str], key: Path) -> None:
    """Signs the files `names` of `folder`, and none beside them, with the private key in `key`."""
    from model_signing import signing

    with tempfile.TemporaryDirectory(dir=folder) as alone:
        for name in names:
            os.link(folder / name, Path(alone) / name)
        signing.Config().use_elliptic_key_signer(private_key=key).sign(alone, folder / SIGNATURE)


def verify(folder: Path, key: Path) -> None:
    """Raises IntegrityError unless the files in `folder` are just those that were signed with the private key of `key`."""
    from model_signing import hashing, verifying

    if not (folder / SIGNATURE).is_file():
        raise IntegrityError("it is not signed")
    ours = hashing.Config().set_ignored_paths(paths=[SIGNATURE], ignore_git_paths=False)
    try:
        verifying.Config().use_elliptic_key_verifier(public_key=key).set_hashing_config(ours).verify(folder, folder / SIGNATURE)
    except Exception as error:  # of cryptography, of JSON, of the library's own
        raise IntegrityError(f"its signature is not that of {key.name} on these files: {type(error).__name__}: {error}") from error
