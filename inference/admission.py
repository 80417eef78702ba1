"""May this adapter be loaded? What can be seen without the engine is checked here; a refusal says why."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from runtime.artifacts import ADAPTER_FILES, CARD, MANIFEST
from runtime.errors import InvalidInput
from runtime.signing import SIGNATURE
from schemas.events import AdapterVersion

ENGINE_NAME = re.compile(r"^[a-z][a-z0-9-]{0,31}@[1-9][0-9]{0,8}-[0-9a-f]{8}$")
WEIGHTS, CONFIG = ADAPTER_FILES
NEEDED = frozenset({*ADAPTER_FILES, MANIFEST})
MAY = frozenset({CARD, SIGNATURE})
MAX_BYTES = 1 << 30
MAX_CONFIG_BYTES = 1 << 16
MAX_RANK = 16
EFFECT_OVER_NOISE = 10.0
LORA_TENSOR = re.compile(r"^base_model\.model\.([A-Za-z0-9_.]+)\.lora_([AB])\.weight$")
FLOATS = frozenset({"F32", "F16", "BF16"})
NOT_SERVED: Mapping[str, Any] = {"modules_to_save": None, "use_dora": False, "rank_pattern": {}, "alpha_pattern": {}, "layer_replication": None}
"""Settings of PEFT that vLLM refuses, or leaves out in silence, with the value that asks for nothing."""
Shapes = Mapping[str, tuple[int, ...]]
"""The base's weights."""


def check_record(version: AdapterVersion, base_epoch: int) -> None:
    """Refuses by the record alone, before anything is fetched. Raises InvalidInput."""
    if not ENGINE_NAME.match(version.engine_name):
        raise InvalidInput(f"engine name {version.engine_name[:64]!r} is not of the form adapter@version-sha8")
    if version.base_epoch != base_epoch:
        raise InvalidInput(f"{version.engine_name} belongs to base epoch {version.base_epoch}, {base_epoch} is served")
    if not 1 <= version.rank <= MAX_RANK:
        raise InvalidInput(f"{version.engine_name} has rank {version.rank}, 1 to {MAX_RANK} is served")
    names = [f.path for f in version.files]
    if stray := ({*names} - MAY) ^ NEEDED or {name for name in names if names.count(name) > 1}:
        raise InvalidInput(f"{version.engine_name} must hold exactly {', '.join(sorted(NEEDED))}, and may hold {' and '.join(sorted(MAY))}: check {sorted(stray)[0]!r}")
    if min(f.size_bytes for f in version.files) < 0 or sum(f.size_bytes for f in version.files) > MAX_BYTES:
        raise InvalidInput(f"{version.engine_name} is over {MAX_BYTES} bytes")


def check_files(version: AdapterVersion, folder: Path, base_name: str, shapes: Shapes | None) -> None:
    """Refuses by the fetched files; `shapes` is None where the base's weights can't be looked at. Raises InvalidInput."""
    check_hashes(version, folder)
    check_contents(version, folder, base_name, shapes)


def check_hashes(version: AdapterVersion, folder: Path) -> None:
    """Refuses files that are not those of the record, and whatever lies beside them. Raises InvalidInput."""
    known = {file.path: file for file in version.files}
    for path in sorted(folder.iterdir()):
        if path.is_symlink() or not path.is_file() or path.name not in known:
            raise InvalidInput(f"{version.engine_name}: {path.name!r} is a link, a folder, or not of this version")
    for name, file in known.items():
        path = folder / name
        if not path.exists() or path.stat().st_size != file.size_bytes or hashlib.sha256(path.read_bytes()).hexdigest() != file.sha256:
            raise InvalidInput(f"{version.engine_name}: {name} is not what the registry says: its size or sha256 differs")


def check_contents(version: AdapterVersion, folder: Path, base_name: str, shapes: Shapes | None) -> None:
    """Refuses by what configuration and tensors say. No weight is read. Raises InvalidInput."""
    name, config = version.engine_name, _config(version, folder)
    if config.get("base_model_name_or_path") != base_name:
        raise InvalidInput(f"{name} was trained on {str(config.get('base_model_name_or_path'))[:64]!r}, {base_name!r} is served")
    if config.get("r") != version.rank:
        raise InvalidInput(f"{name}: its configuration has another rank than the registry")
    if config.get("peft_type", "LORA") != "LORA" or config.get("bias", "none") != "none":
        raise InvalidInput(f"{name} is no LoRA adapter without biases")
    if wanted := next((setting for setting, nothing in NOT_SERVED.items() if config.get(setting) not in (None, False, nothing)), None):
        raise InvalidInput(f"{name}: its configuration has {wanted}, which can't be served")
    alpha = config.get("lora_alpha", version.rank)
    if isinstance(alpha, bool) or not isinstance(alpha, int | float) or not math.isfinite(alpha) or alpha <= 0:
        raise InvalidInput(f"{name}: lora_alpha must be a positive number, it is {str(alpha)[:64]}")
    try:
        with safe_open(folder / WEIGHTS, "np") as tensors:
            found = {key: (tuple(part.get_shape()), part.get_dtype()) for key in tensors.keys() for part in [tensors.get_slice(key)]}  # noqa: SIM118  it is no dict
    except SafetensorError as error:
        raise InvalidInput(f"{name}: the weights are no safetensors file: {error}") from error
    _check_tensors(name, version.rank, found, shapes)


def _config(version: AdapterVersion, folder: Path) -> dict[str, Any]:
    path = folder / CONFIG
    if path.stat().st_size > MAX_CONFIG_BYTES:
        raise InvalidInput(f"{version.engine_name}: {CONFIG} is over {MAX_CONFIG_BYTES} bytes")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"{version.engine_name}: {CONFIG} can't be read as JSON: {type(error).__name__}") from error
    if not isinstance(config, dict):
        raise InvalidInput(f"{version.engine_name}: {CONFIG} is no JSON object")
    return config


def _check_tensors(name: str, rank: int, found: Mapping[str, tuple[tuple[int, ...], str]], shapes: Shapes | None) -> None:
    """Each module has both matrices, of floats, of the rank, and of the size of the base's weight."""
    if not found:
        raise InvalidInput(f"{name} holds no tensor")
    modules: dict[str, dict[str, tuple[int, ...]]] = {}
    for key, (shape, kind) in found.items():
        if not (parts := LORA_TENSOR.match(key)):
            raise InvalidInput(f"{name}: unexpected tensor {key[:128]!r}")
        if kind not in FLOATS or len(shape) != 2:
            raise InvalidInput(f"{name}: tensor {key!r} is no matrix of floats, but {kind} {list(shape)}")
        modules.setdefault(parts[1], {})[parts[2]] = shape
    for module, both in modules.items():
        if both.keys() != {"A", "B"}:
            raise InvalidInput(f"{name}: of {module} it has lora_{min(both)} alone")
        (down, inner), (outer, up) = both["A"], both["B"]
        if (down, up) != (rank, rank):
            raise InvalidInput(f"{name}: {module} has rank {down} and {up}, the registry says {rank}")
        if shapes is not None and shapes.get(f"{module}.weight") != (outer, inner):
            has = shapes.get(f"{module}.weight")
            raise InvalidInput(f"{name}: {module} is for a weight of {outer} x {inner}, the base has " + (f"one of {' x '.join(map(str, has))}" if has else "none"))


def has_effect(base: dict[int, float], again: dict[int, float], adapted: dict[int, float]) -> bool:
    """Whether an adapter moves the log probabilities of the likeliest tokens well beyond the base's own noise, which other requests of the same batch make."""
    noise = _distance(base, again)
    return _distance(base, adapted) > max(EFFECT_OVER_NOISE * noise, 1e-3)


def _distance(a: dict[int, float], b: dict[int, float]) -> float:
    """How far one token's log probability is from one to the other at least: one that is not among the likeliest is no likelier than the last of them."""
    last_a, last_b = min(a.values()), min(b.values())
    return max(abs(a.get(token, last_a) - b.get(token, last_b)) for token in a.keys() | b.keys())
