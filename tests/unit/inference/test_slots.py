"""How many adapters a batch may have on a CPU."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from inference.engines import vllm
from inference.engines.vllm import MAX_LORAS, slots


@pytest.mark.parametrize(
    ("tied", "memory", "most", "expected"),
    [
        (True, 1 << 20, 256, MAX_LORAS),
        (True, 1 << 20, 4, 4),
        (True, 8 << 20, 256, (8 << 20) // 32 // (4 * 16 * (2 * 12 + 20 + 30))),
        (False, 8 << 20, 256, (8 << 20) // 32 // (4 * 16 * (12 + 12 + 20 + 30))),
        (True, 1 << 40, 256, 256),
    ],
    ids=["little memory", "few stay loaded", "as many as fit", "a head of its own", "all that stay loaded"],
)
def test_as_many_adapters_have_a_slot_as_there_is_memory_for(tied: bool, memory: int, most: int, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shapes = {"model.embed_tokens.weight": (8, 4), "model.layers.0.self_attn.q_proj.weight": (16, 4), "model.layers.0.mlp.down_proj.weight": (10, 20), "model.norm.weight": (4,)}
    save_file({name: np.zeros(shape, np.float32) for name, shape in (shapes if tied else shapes | {"lm_head.weight": (8, 4)}).items()}, tmp_path / "model.safetensors")
    monkeypatch.setattr(vllm, "memory_bytes", lambda: memory)
    monkeypatch.setattr(vllm, "has_nvidia", lambda: False)
    assert slots(str(tmp_path), 16, most) == expected


def test_a_gpu_has_a_few(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm, "has_nvidia", lambda: True)
    assert (slots(str(tmp_path), 16), slots(str(tmp_path), 16, 4)) == (MAX_LORAS, 4)
