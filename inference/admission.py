"""May this adapter be loaded? What can be seen without the engine is checked here; a refusal says why."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

from safetensors import SafetensorError, safe_open

from runtime.artifacts import ADAPTER_FILES, CARD, MANIFEST
from runtime.errors import InvalidInput
from runtime.signing import SIGNATURE
from schemas.events import AdapterVersion

ENGINE_NAME = re.compile(r"^[a-z][a-z0-9-]{0,31}@[1-9][0-9]{0,8}-[0-9a-f]{8}$")
NEEDED = frozenset({*ADAPTER_FILES, MANIFEST})
MAY = frozenset({CARD, SIGNATURE})
MAX_BYTES = 1 << 30
MAX_RANK = 16
EFFECT_OVER_NOISE = 10.0
LORA_TENSOR = re.compile(r"\.lora_[AB]\.weight$")


def check_record(version: AdapterVersion, base_epoch: int) -> None:
    """Refuses by the record alone, before anything is fetched. Raises InvalidInput."""
    if not ENGINE_NAME.match(version.engine_name):
        raise InvalidInput(f"engine name {version.engine_name!r} is not of the form adapter@version-sha8")
    if version.base_epoch != base_epoch:
        raise InvalidInput(f"{version.engine_name} belongs to base epoch {version.base_epoch}, {base_epoch} is served")
    if version.rank > MAX_RANK:
        raise InvalidInput(f"{version.engine_name} has rank {version.rank}, at most {MAX_RANK} is served")
    if stray := ({f.path for f in version.files} - MAY) ^ NEEDED:
        raise InvalidInput(f"{version.engine_name} must hold exactly {', '.join(sorted(NEEDED))}, and may hold {' and '.join(sorted(MAY))}: check {sorted(stray)[0]!r}")
    if sum(f.size_bytes for f in version.files) > MAX_BYTES:
        raise InvalidInput(f"{version.engine_name} is over {MAX_BYTES} bytes")


def check_files(version: AdapterVersion, folder: Path, base_name: str) -> None:
    """Refuses by the fetched files. Raises InvalidInput."""
    for file in version.files:
        data = (folder / file.path).read_bytes()
        if len(data) != file.size_bytes or hashlib.sha256(data).hexdigest() != file.sha256:
            raise InvalidInput(f"{version.engine_name}: {file.path} is not what the registry says: its size or sha256 differs")
    config = json.loads((folder / "adapter_config.json").read_text())
    if config.get("base_model_name_or_path") != base_name:
        raise InvalidInput(f"{version.engine_name} was trained on {config.get('base_model_name_or_path')!r}, {base_name!r} is served")
    if config.get("r") != version.rank or config.get("modules_to_save"):
        raise InvalidInput(f"{version.engine_name}: its configuration has another rank than the registry, or modules_to_save")
    try:
        with safe_open(folder / "adapter_model.safetensors", "np") as tensors:
            names = list(tensors.keys())
    except SafetensorError as error:
        raise InvalidInput(f"{version.engine_name}: the weights are no safetensors file: {error}") from error
    if not names or (stray := next((n for n in names if not LORA_TENSOR.search(n)), None)):
        raise InvalidInput(f"{version.engine_name}: unexpected tensor {stray!r}" if names else f"{version.engine_name} holds no tensor")


def has_effect(base: dict[int, float], again: dict[int, float], adapted: dict[int, float]) -> bool:
    """Whether an adapter moves the log probabilities of the likeliest tokens well beyond the base's own noise, which other requests of the same batch make."""
    noise = _distance(base, again)
    return _distance(base, adapted) > max(EFFECT_OVER_NOISE * noise, 1e-3)


def _distance(a: dict[int, float], b: dict[int, float]) -> float:
    """How far one token's log probability is from one to the other at least: one that is not among the likeliest is no likelier than the last of them."""
    last_a, last_b = min(a.values()), min(b.values())
    return max(abs(a.get(token, last_a) - b.get(token, last_b)) for token in a.keys() | b.keys())
