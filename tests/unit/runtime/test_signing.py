"""Signed versions: fetched where the key fits and all files are those that were signed, else refused."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.artifacts import fetch, store
from runtime.errors import IntegrityError, SettingsError
from runtime.objects import Objects
from runtime.settings import load_settings
from runtime.signing import SIGNATURE, Keys, sign
from schemas.events import AdapterVersion
from tests.support.versions import new_keys, stored_version

NAMES = ("adapter_model.safetensors", "manifest.json")


@pytest.fixture
def keys(tmp_path: Path) -> Keys:
    return new_keys(tmp_path)


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects((tmp_path / "store").as_uri())


@pytest.fixture
def signed(tmp_path: Path, objects: Objects, keys: Keys) -> AdapterVersion:
    """A version whose files were signed in a folder that has others too."""
    version = stored_version(tmp_path, objects, 1, {name: name.encode() for name in NAMES})
    (tmp_path / "made/checkpoints").mkdir()
    (tmp_path / "made/checkpoints/half.bin").write_bytes(b"of no version")
    assert keys.private
    sign(tmp_path / "made", NAMES, keys.private)
    assert {path.name for path in (tmp_path / "made").iterdir()} == {*NAMES, SIGNATURE, "checkpoints"}
    return replace(version, files=asyncio.run(store(objects, "adapters/tool/1", tmp_path / "made", (*NAMES, SIGNATURE))))


def test_what_our_key_signed_is_fetched(tmp_path: Path, objects: Objects, signed: AdapterVersion, keys: Keys) -> None:
    folder = asyncio.run(fetch(signed, objects, tmp_path / "cache", keys))
    assert {path.name for path in folder.iterdir()} == {*NAMES, SIGNATURE}
    assert asyncio.run(fetch(signed, objects, tmp_path / "unasked")).exists()


def unsigned(version: AdapterVersion, objects: Objects, made: Path) -> AdapterVersion:
    return replace(version, files=version.files[:-1])


def changed_by_who_writes_store_and_topic(version: AdapterVersion, objects: Objects, made: Path) -> AdapterVersion:
    (made / NAMES[0]).write_bytes(b"other weights")
    return replace(version, files=asyncio.run(store(objects, "adapters/tool/1", made, (*NAMES, SIGNATURE))))


def with_a_file_more(version: AdapterVersion, objects: Objects, made: Path) -> AdapterVersion:
    (made / ".gitignore").write_bytes(b"")
    (made / "more.bin").write_bytes(b"")
    return replace(version, files=asyncio.run(store(objects, "adapters/tool/1", made, (*NAMES, "more.bin", SIGNATURE))))


def with_a_torn_signature(version: AdapterVersion, objects: Objects, made: Path) -> AdapterVersion:
    (made / SIGNATURE).write_bytes((made / SIGNATURE).read_bytes()[:-40])
    return replace(version, files=asyncio.run(store(objects, "adapters/tool/1", made, (*NAMES, SIGNATURE))))


@pytest.mark.parametrize(
    ("change", "words"),
    [(unsigned, "is not signed"), (changed_by_who_writes_store_and_topic, "Hash mismatch for 'adapter_model.safetensors'"), (with_a_file_more, "Extra files.*more.bin"), (with_a_torn_signature, r"is not that of key\.pub")],
)
def test_what_it_did_not_sign_is_refused_and_leaves_no_folder(
    tmp_path: Path, objects: Objects, signed: AdapterVersion, keys: Keys, change: Callable[[AdapterVersion, Objects, Path], AdapterVersion], words: str
) -> None:
    with pytest.raises(IntegrityError, match=f"tool@1-1a2b3c4d: .*{words}"):
        asyncio.run(fetch(change(signed, objects, tmp_path / "made"), objects, tmp_path / "cache", keys))
    assert not (tmp_path / "cache" / signed.engine_name).exists()


def test_what_another_key_signed_is_refused(tmp_path: Path, objects: Objects, signed: AdapterVersion) -> None:
    with pytest.raises(IntegrityError, match=r"is not that of other\.pub"):
        asyncio.run(fetch(signed, objects, tmp_path / "cache", new_keys(tmp_path, "other")))


def test_a_key_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="LOOM_VERIFYING_KEY: there is no file"):
        _ = load_settings(verifying_key=tmp_path / "nowhere.pub").keys
