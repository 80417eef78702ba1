"""The base model in memory, and the digest of its files."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WEIGHTS = ("*.safetensors", "tokenizer.json", "config.json")


def base_sha256(folder: Path) -> str:
    """Digest over weights, tokenizer and configuration."""
    state = hashlib.sha256()
    for path in sorted(p for pattern in WEIGHTS for p in folder.glob(pattern)):
        state.update(path.name.encode() + hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()


def load_model(folder: str) -> PreTrainedModel:
    """The model in float32 on a CPU, in its own type on a GPU."""
    import torch
    from transformers import AutoModelForCausalLM

    on_gpu = torch.cuda.is_available()
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype="auto" if on_gpu else torch.float32, device_map="cuda" if on_gpu else None)
    return model

