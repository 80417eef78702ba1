"""Versions' files: stored, fetched, and refused when they are not what the registry says."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.artifacts import fetch
from runtime.errors import IntegrityError, InvalidInput
from runtime.objects import Objects
from schemas.events import AdapterVersion, ArtifactFile
from tests.support.versions import stored_version

NAMES = ("adapter_model.safetensors", "manifest.json")


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects((tmp_path / "store").as_uri())


@pytest.fixture
def version(tmp_path: Path, objects: Objects) -> AdapterVersion:
    return stored_version(tmp_path, objects, 1, {name: name.encode() for name in NAMES})


def test_what_was_stored_is_fetched_once(tmp_path: Path, objects: Objects, version: AdapterVersion) -> None:
    folder = asyncio.run(fetch(version, objects, tmp_path / "cache"))
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {name: name.encode() for name in NAMES}
    (tmp_path / "store/adapters/tool/1/manifest.json").unlink()
    assert asyncio.run(fetch(version, objects, tmp_path / "cache")) == folder


def test_two_that_fetch_the_same_version_do_not_disturb_each_other(tmp_path: Path, objects: Objects, version: AdapterVersion) -> None:
    async def all_of_them() -> set[Path]:
        return set(await asyncio.gather(*(fetch(version, objects, tmp_path / "cache") for _ in range(8))))

    (folder,) = asyncio.run(all_of_them())
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {name: name.encode() for name in NAMES}


def test_changed_bytes_are_refused_and_leave_no_folder(tmp_path: Path, objects: Objects, version: AdapterVersion) -> None:
    (tmp_path / "store/adapters/tool/1/manifest.json").write_text("else")
    with pytest.raises(IntegrityError, match="has changed"):
        asyncio.run(fetch(version, objects, tmp_path / "cache"))
    assert not (tmp_path / "cache" / version.engine_name).exists()


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "a\n", ".hidden", "a\x00b"])
def test_names_that_are_paths_are_refused(tmp_path: Path, objects: Objects, version: AdapterVersion, name: str) -> None:
    odd = ArtifactFile(path=name, sha256="0" * 64, size_bytes=1)
    for bad in (replace(version, files=(odd,)), replace(version, engine_name=name)):
        with pytest.raises(InvalidInput, match="plain file name"):
            asyncio.run(fetch(bad, objects, tmp_path / "cache"))


def test_files_outside_of_the_store_are_refused(tmp_path: Path, objects: Objects, version: AdapterVersion) -> None:
    with pytest.raises(IntegrityError, match="not in the object store"):
        asyncio.run(fetch(replace(version, artifact_uri="file:///etc"), objects, tmp_path / "cache"))
