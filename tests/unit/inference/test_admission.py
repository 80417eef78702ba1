"""Hostile and broken adapters are refused, each with its reason."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from inference.admission import check_files, check_record, has_effect
from runtime.errors import InvalidInput
from schemas.events import AdapterVersion, ArtifactFile

BASE = "base@0-12345678"


def sound(folder: Path, tensors: dict[str, np.ndarray] | None = None, **config: object) -> AdapterVersion:
    """A sound adapter in `folder`, and its record."""
    save_file(tensors or {"base_model.model.layers.0.q_proj.lora_A.weight": np.ones((8, 4), np.float32)}, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": BASE, "r": 8, "modules_to_save": None} | config))
    (folder / "manifest.json").write_text("{}")
    return record(folder)


def record(folder: Path) -> AdapterVersion:
    files = tuple(ArtifactFile(path=p.name, sha256=hashlib.sha256(p.read_bytes()).hexdigest(), size_bytes=p.stat().st_size) for p in sorted(folder.iterdir()))
    return AdapterVersion(version=1, engine_name="tool@1-0123abcd", base_epoch=0, artifact_uri="", files=files, run_id="", recipe_hash="", manifest_sha256="", rank=8, metrics={}, verdict="")


@pytest.mark.parametrize("has_card", [True, False])
def test_a_sound_adapter_is_admitted(tmp_path: Path, has_card: bool) -> None:
    if has_card:
        (tmp_path / "README.md").write_text("# tool@1")
    version = sound(tmp_path)
    check_record(version, 0)
    check_files(version, tmp_path, BASE)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda v: replace(v, engine_name="../../etc@1-0123abcd"), "engine name"),
        (lambda v: replace(v, engine_name="tool@7"), "engine name"),
        (lambda v: replace(v, base_epoch=3), "base epoch 3"),
        (lambda v: replace(v, rank=64), "rank 64"),
        (lambda v: replace(v, files=(*v.files, ArtifactFile(path="../../passwd", sha256="", size_bytes=1))), "passwd"),
        (lambda v: replace(v, files=(*v.files[:2], ArtifactFile(path="adapter_model.bin", sha256="", size_bytes=1))), "must hold exactly"),
        (lambda v: replace(v, files=tuple(replace(f, size_bytes=1 << 40) for f in v.files)), "bytes"),
    ],
    ids=["traversal", "mutable name", "wrong base", "rank", "stray file", "pickle name", "oversize"],
)
def test_refused_by_the_record_alone(tmp_path: Path, change: Callable[[AdapterVersion], AdapterVersion], fault: str) -> None:
    with pytest.raises(InvalidInput, match=fault):
        check_record(change(sound(tmp_path)), 0)


def test_refused_when_tampered_with(tmp_path: Path) -> None:
    version = sound(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(b"x" * version.files[1].size_bytes)
    with pytest.raises(InvalidInput, match="not what the registry says"):
        check_files(version, tmp_path, BASE)


def test_refused_when_a_pickle_poses_as_safetensors(tmp_path: Path) -> None:
    sound(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_bytes(pickle.dumps({"a": 1}))
    with pytest.raises(InvalidInput, match="no safetensors"):
        check_files(record(tmp_path), tmp_path, BASE)


@pytest.mark.parametrize(
    ("tensors", "config", "fault"),
    [
        ({"lm_head.weight": np.ones((2, 2), np.float32)}, {}, "unexpected tensor"),
        (None, {"r": 4}, "another rank"),
        (None, {"modules_to_save": ["lm_head"]}, "modules_to_save"),
        (None, {"base_model_name_or_path": "base@0-ffffffff"}, "was trained on"),
    ],
    ids=["head", "rank", "modules_to_save", "other base"],
)
def test_refused_by_content(tmp_path: Path, tensors: dict[str, np.ndarray] | None, config: dict[str, object], fault: str) -> None:
    version = sound(tmp_path, tensors, **config)
    with pytest.raises(InvalidInput, match=fault):
        check_files(version, tmp_path, BASE)


def test_effect_is_measured_against_the_base_s_own_noise() -> None:
    base = {1: -0.1, 2: -2.0}
    assert not has_effect(base, base, dict(base))
    assert not has_effect(base, {1: -0.11, 2: -2.0}, {1: -0.15, 2: -2.0})
    assert has_effect(base, base, {1: -0.9, 2: -1.0})
    assert has_effect(base, base, {3: -0.1, 4: -2.0})


def test_the_likeliest_tokens_may_change_by_noise() -> None:
    base, again = {1: -0.1, 2: -3.0, 3: -5.001}, {1: -0.1, 2: -3.0, 4: -5.0}
    assert has_effect(base, again, {1: -0.5, 2: -2.0, 3: -4.0})
    assert has_effect(base, again, {7: -0.1, 8: -3.0, 9: -5.0})
    assert not has_effect(base, again, {1: -0.1, 2: -3.0, 5: -4.999})
