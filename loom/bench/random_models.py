"""Bases and adapters of random weights: what they cost is that of trained ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from runtime.artifacts import ADAPTER_FILES, MANIFEST, base_name, store, weight_shapes
from runtime.objects import Objects
from schemas.events import AdapterVersion

RANK = 16
LINEAR = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
"""The modules of a Llama's layer that training adapts."""
INNER_OVER_WIDTH = 2.75
HEAD_WIDTH = 64


def random_adapter(base: str, folder: Path, seed: int, modules: Sequence[str] = LINEAR, rank: int = RANK, scale: float = 0.02) -> Path:
    """Writes a LoRA adapter of the base in folder `base`, in PEFT's form; with `scale` 0 it changes nothing."""
    rng = np.random.default_rng(seed)
    tensors = {}
    for name, (outer, inner) in ((name, shape) for name, shape in (weight_shapes(Path(base)) or {}).items() if any(name.endswith(f"{module}.weight") for module in modules)):
        key = f"base_model.model.{name.removesuffix('.weight')}"
        tensors[f"{key}.lora_A.weight"] = rng.normal(size=(rank, inner)).astype(np.float32) / np.sqrt(np.float32(inner))
        tensors[f"{key}.lora_B.weight"] = scale * rng.normal(size=(outer, rank)).astype(np.float32)
    folder.mkdir(parents=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    targets = [module.rsplit(".", maxsplit=1)[-1] for module in modules]
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": targets, "bias": "none", "base_model_name_or_path": "base"}))
    return folder


async def random_version(base: str, base_sha256: str, folder: Path, objects: Objects, adapter: str, number: int) -> AdapterVersion:
    """Version `number` of `adapter` for the base in folder `base`, of random weights that change its answers, written to `folder` and stored as its trainer would."""
    made = random_adapter(base, folder / f"{adapter}-{number}", 1000 + number, scale=0.3)
    config = (made / "adapter_config.json").read_text().replace('"base"', f'"{base_name(0, base_sha256)}"')
    (made / "adapter_config.json").write_text(config)
    (made / MANIFEST).write_text("{}")
    files = await store(objects, f"adapters/{adapter}/{number}", made, (*ADAPTER_FILES, MANIFEST))
    return AdapterVersion(
        version=number, engine_name=f"{adapter}@{number}-{files[0].sha256[:8]}", base_epoch=0, artifact_uri=f"{objects.url}/adapters/{adapter}/{number}", files=files, run_id=f"{adapter}-{number}",
        recipe_hash="", manifest_sha256=files[-1].sha256, rank=RANK, metrics={}, verdict="",
    )  # fmt: skip


def random_base(like: str, folder: Path, width: int, layers: int) -> Path:
    """Writes a Llama of random weights with the tokenizer of the base in folder `like`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(like)
    heads = width // HEAD_WIDTH
    config.update({"hidden_size": width, "num_hidden_layers": layers, "intermediate_size": int(width * INNER_OVER_WIDTH), "num_attention_heads": heads, "num_key_value_heads": heads, "head_dim": HEAD_WIDTH})
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(Path(like) / file, folder / file)
    return folder
