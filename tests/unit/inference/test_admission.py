"""Hostile and broken adapters are refused, each with its reason."""

from __future__ import annotations

import asyncio
import hashlib
import json
import pickle
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from inference.admission import check_contents, check_files, check_record, has_effect
from inference.residency import Residency, _Serving
from runtime.errors import InvalidInput
from runtime.objects import Objects
from runtime.project import Project
from schemas.events import AdapterVersion, ArtifactFile, BaseEpoch

BASE = "base@0-12345678"
MODULE = "base_model.model.model.layers.0.self_attn.q_proj"
SHAPES = {"model.layers.0.self_attn.q_proj.weight": (6, 4)}
Spoil = Callable[[Path], object]


def lora(rank: int = 8, inner: int = 4, outer: int = 6, module: str = MODULE) -> dict[str, np.ndarray]:
    return {f"{module}.lora_A.weight": np.ones((rank, inner), np.float32), f"{module}.lora_B.weight": np.ones((outer, rank), np.float32)}


def sound(folder: Path, tensors: dict[str, np.ndarray] | None = None, **config: Any) -> AdapterVersion:
    """A sound adapter in `folder`, and its record."""
    folder.mkdir(exist_ok=True)
    save_file(lora() if tensors is None else tensors, folder / "adapter_model.safetensors")
    settings = {"base_model_name_or_path": BASE, "r": 8, "lora_alpha": 16, "peft_type": "LORA", "modules_to_save": None, "rank_pattern": {}, "alpha_pattern": {}, "use_dora": False, "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(settings | config))
    (folder / "manifest.json").write_text("{}")
    return record(folder)


def record(folder: Path, **fields: Any) -> AdapterVersion:
    """The record of what lies in `folder`."""
    files = tuple(ArtifactFile(path=p.name, sha256=hashlib.sha256(p.read_bytes()).hexdigest(), size_bytes=p.stat().st_size) for p in sorted(folder.iterdir()))
    known: dict[str, Any] = {"version": 1, "engine_name": "tool@1-0123abcd", "base_epoch": 0, "artifact_uri": "", "files": files, "run_id": "", "recipe_hash": "", "manifest_sha256": "", "rank": 8, "metrics": {}, "verdict": ""}
    return AdapterVersion(**(known | fields))


@pytest.mark.parametrize("has_card", [True, False])
@pytest.mark.parametrize("shapes", [SHAPES, None], ids=["known base", "base on a hub"])
def test_a_sound_adapter_is_admitted(tmp_path: Path, has_card: bool, shapes: dict[str, tuple[int, ...]] | None) -> None:
    if has_card:
        (tmp_path / "README.md").write_text("# tool@1")
    version = sound(tmp_path)
    check_record(version, 0)
    check_files(version, tmp_path, BASE, shapes)


RECORDS: dict[str, tuple[Callable[[AdapterVersion], AdapterVersion], str]] = {
    "traversal in the engine name": (lambda v: replace(v, engine_name="../../etc@1-0123abcd"), "engine name"),
    "a line behind the engine name": (lambda v: replace(v, engine_name="tool@1-0123abcd\n/etc"), "engine name"),
    "mutable name": (lambda v: replace(v, engine_name="tool@7"), "engine name"),
    "wrong base": (lambda v: replace(v, base_epoch=3), "base epoch 3"),
    "rank over the engine's": (lambda v: replace(v, rank=64), "rank 64"),
    "rank 0": (lambda v: replace(v, rank=0), "rank 0"),
    "traversal in a file name": (lambda v: replace(v, files=(*v.files, ArtifactFile(path="../../passwd", sha256="", size_bytes=1))), "passwd"),
    "absolute file name": (lambda v: replace(v, files=(*v.files, ArtifactFile(path="/etc/passwd", sha256="", size_bytes=1))), "passwd"),
    "pickle beside": (lambda v: replace(v, files=(*v.files, ArtifactFile(path="adapter_model.bin", sha256="", size_bytes=1))), "adapter_model.bin"),
    "pickle in the place": (lambda v: replace(v, files=(*v.files[:2], ArtifactFile(path="adapter_model.bin", sha256="", size_bytes=1))), "must hold exactly"),
    "a file twice": (lambda v: replace(v, files=(*v.files, v.files[0])), "check 'adapter_config.json'"),
    "oversize": (lambda v: replace(v, files=tuple(replace(f, size_bytes=1 << 40) for f in v.files)), "over 1073741824 bytes"),
    "less than nothing": (lambda v: replace(v, files=(replace(v.files[0], size_bytes=-(1 << 40)), *v.files[1:])), "bytes"),
}


def config(**settings: Any) -> Spoil:
    return lambda folder: sound(folder, **settings)


def tensors(**changes: Any) -> Spoil:
    return lambda folder: sound(folder, lora(**changes))


def raw(name: str, content: bytes) -> Spoil:
    def spoil(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return spoil


def header(described: bytes) -> bytes:
    """A safetensors file of this head and no tensor."""
    return len(described).to_bytes(8, "little") + described


CONTENTS: dict[str, tuple[Spoil, str]] = {
    "pickle poses as safetensors": (raw("adapter_model.safetensors", pickle.dumps({"a": 1})), "no safetensors"),
    "empty weights": (raw("adapter_model.safetensors", b""), "no safetensors"),
    "head longer than the file": (raw("adapter_model.safetensors", (1 << 40).to_bytes(8, "little") + b"{}"), "no safetensors"),
    "tensor beyond the file": (raw("adapter_model.safetensors", header(json.dumps({f"{MODULE}.lora_A.weight": {"dtype": "F32", "shape": [8, 1 << 30], "data_offsets": [0, 1 << 35]}}).encode())), "no safetensors"),
    "no tensor": (raw("adapter_model.safetensors", header(b"{}")), "holds no tensor"),
    "a head of the model": (lambda folder: sound(folder, {"lm_head.weight": np.ones((2, 2), np.float32)}), "unexpected tensor 'lm_head.weight'"),
    "embeddings": (lambda folder: sound(folder, lora() | {"base_model.model.model.embed_tokens.lora_embedding_A": np.ones((8, 4), np.float32)}), "unexpected tensor"),
    "half a module": (lambda folder: sound(folder, {f"{MODULE}.lora_A.weight": np.ones((8, 4), np.float32)}), "has lora_A alone"),
    "integers": (lambda folder: sound(folder, {name: tensor.astype(np.int64) for name, tensor in lora().items()}), "no matrix of floats, but I64"),
    "three dimensions": (lambda folder: sound(folder, {name: tensor[None] for name, tensor in lora().items()}), r"no matrix of floats, but F32 \[1, "),
    "rank of the tensors": (tensors(rank=4), "has rank 4 and 4, the registry says 8"),
    "wide": (tensors(inner=5), "is for a weight of 6 x 5, the base has one of 6 x 4"),
    "high": (tensors(outer=7), "is for a weight of 7 x 4, the base has one of 6 x 4"),
    "a module that the base has not": (tensors(module="base_model.model.model.layers.99.self_attn.q_proj"), "the base has none"),
    "rank of the configuration": (config(r=4), "another rank"),
    "modules_to_save": (config(modules_to_save=["lm_head"]), "modules_to_save, which can't be served"),
    "DoRA": (config(use_dora=True), "use_dora, which can't be served"),
    "a rank a module": (config(rank_pattern={"q_proj": 4}), "rank_pattern, which can't be served"),
    "another scale a module": (config(alpha_pattern={"q_proj": 400}), "alpha_pattern, which can't be served"),
    "biases": (config(bias="all"), "no LoRA adapter without biases"),
    "another kind of adapter": (config(peft_type="IA3"), "no LoRA adapter"),
    "trained on another base": (config(base_model_name_or_path="base@0-ffffffff"), "was trained on 'base@0-ffffffff'"),
    "no number for alpha": (config(lora_alpha=float("nan")), "lora_alpha must be a positive number"),
    "alpha of text": (config(lora_alpha="16; rm -rf"), "lora_alpha must be a positive number"),
    "deep JSON": (raw("adapter_config.json", b"[" * 30_000 + b"]" * 30_000), "can't be read as JSON: RecursionError"),
    "long JSON": (raw("adapter_config.json", b'{"r": 8, "x": "' + b"x" * (1 << 20) + b'"}'), "over 65536 bytes"),
    "a number of many digits": (raw("adapter_config.json", b'{"r": ' + b"9" * 10_000 + b"}"), "can't be read as JSON: ValueError"),
    "no JSON": (raw("adapter_config.json", b"\xff\xfe{}"), "can't be read as JSON: UnicodeDecodeError"),
    "no object": (raw("adapter_config.json", b"[]"), "is no JSON object"),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_refused_by_the_record_alone(tmp_path: Path, kind: str) -> None:
    change, fault = RECORDS[kind]
    with pytest.raises(InvalidInput, match=fault):
        check_record(change(sound(tmp_path)), 0)


@pytest.mark.parametrize("kind", CONTENTS)
def test_refused_by_content(tmp_path: Path, kind: str) -> None:
    spoil, fault = CONTENTS[kind]
    sound(tmp_path)
    spoil(tmp_path)
    with pytest.raises(InvalidInput, match=fault):
        check_files(record(tmp_path), tmp_path, BASE, SHAPES)


def swap(folder: Path) -> None:
    (folder / "adapter_model.safetensors").write_bytes(b"x" * (folder / "adapter_model.safetensors").stat().st_size)


def link(folder: Path) -> None:
    weights = folder / "adapter_model.safetensors"
    weights.rename(folder.parent / "elsewhere")
    weights.symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (swap, "adapter_model.safetensors is not what the registry says"),
        (lambda folder: (folder / "manifest.json").unlink(), "manifest.json is not what the registry says"),
        (link, "'adapter_model.safetensors' is a link"),
        (raw("adapter_model.bin", pickle.dumps({"a": 1})), "'adapter_model.bin' is a link, a folder, or not of this version"),
        (lambda folder: (folder / "tokenizer").mkdir(), "'tokenizer' is a link, a folder"),
    ],
    ids=["tampered", "missing", "link", "pickle beside", "folder"],
)
def test_refused_when_tampered_with(tmp_path: Path, spoil: Spoil, fault: str) -> None:
    version = sound(tmp_path / "tool@1")
    spoil(tmp_path / "tool@1")
    with pytest.raises(InvalidInput, match=fault):
        check_files(version, tmp_path / "tool@1", BASE, SHAPES)


class Untouched:
    """An engine that no hostile adapter may reach."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(f"the engine was asked to {name}")


@pytest.mark.parametrize("kind", [*RECORDS, *CONTENTS])
def test_what_can_be_seen_never_touches_the_engine(tmp_path: Path, kind: str) -> None:
    store, name = tmp_path / "objects", "adapters/tool/1"
    (store / "adapters" / "tool").mkdir(parents=True)
    version = sound(store / name)
    if kind in CONTENTS:
        CONTENTS[kind][0](store / name)
        version = record(store / name)
    else:
        version = RECORDS[kind][0](version)
    sha256, base = "12345678" + "0" * 56, tmp_path / "base"
    base.mkdir()
    save_file({weight: np.ones(shape, np.float32) for weight, shape in SHAPES.items()}, base / "model.safetensors")

    async def load() -> None:
        residency = Residency(Project(), "nowhere:1", lambda *_: Untouched(), Objects(store.as_uri()), None, tmp_path / "fetched", refuse=None)  # type: ignore[arg-type]
        serving = _Serving(Untouched(), str(base), BaseEpoch(epoch=0, base_uri="", base_sha256=sha256, live={}))
        try:
            await residency._load(serving, replace(version, artifact_uri=f"{store.as_uri()}/{name}"))
        finally:
            await residency._follower.stop()

    with pytest.raises(InvalidInput):
        asyncio.run(load())


def test_looking_at_an_adapter_costs_little_beside_its_hashes(tmp_path: Path) -> None:
    modules = {name: tensor for layer in range(32) for part in ("q", "k", "v", "o") for name, tensor in lora(16, 512, 512, f"base_model.model.model.layers.{layer}.self_attn.{part}_proj").items()}
    version = replace(sound(tmp_path, modules, r=16), rank=16)
    shapes = {f"model.layers.{layer}.self_attn.{part}_proj.weight": (512, 512) for layer in range(32) for part in ("q", "k", "v", "o")}
    seconds = []
    for _ in range(7):
        began = time.perf_counter()
        check_record(version, 0)
        check_contents(version, tmp_path, BASE, shapes)
        seconds.append(time.perf_counter() - began)
    assert min(seconds) < 0.02


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
