"""The base model in memory, and the digest of its files."""

from __future__ import annotations

import ctypes
import gc
import hashlib
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

WEIGHTS = ("*.safetensors", "tokenizer.json", "config.json")


def weights_sha256(files: Mapping[str, str]) -> str:
    """One digest over a base's weights, tokenizer and configuration; `files` maps their names to their sha256 in hex."""
    state = hashlib.sha256()
    for name in sorted(filter(_counts, files)):
        state.update(name.encode() + bytes.fromhex(files[name]))
    return state.hexdigest()


def base_sha256(folder: Path) -> str:
    """`weights_sha256` of the files in `folder`."""
    return weights_sha256({path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir() if _counts(path.name)})


def _counts(name: str) -> bool:
    return any(fnmatch(name, pattern) for pattern in WEIGHTS)


def load_model(folder: str, *, is_trainable: bool = False) -> PreTrainedModel:
    """The model in float32 on a CPU or where its own weights are trained, else in its own type.

    Eager attention on a CPU: the backward pass of torch's fused one takes a quarter of a step at these lengths.
    """
    import torch
    from transformers import AutoModelForCausalLM

    on_gpu = torch.cuda.is_available()
    dtype = "auto" if on_gpu and not is_trainable else torch.float32
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, device_map="cuda" if on_gpu else None, attn_implementation=None if on_gpu else "eager")
    return model


def with_adapter(folder: str, adapter: Path, *, is_trainable: bool = False) -> PeftModel:
    """The model in `folder` with the adapter that PEFT saved in another."""
    from peft import LoraConfig, PeftModel

    config = fused(LoraConfig.from_pretrained(str(adapter)))
    model: PeftModel = PeftModel.from_pretrained(load_model(folder), str(adapter), is_trainable=is_trainable, config=config)
    return model


def fused(config: LoraConfig) -> LoraConfig:
    """`config` with layers that add `scaling * B(A(x))` to what the base gives within one product: PEFT's scale and add in two passes over all of it, and two more in the backward pass."""
    import torch
    from peft.tuners.lora import Linear

    class Fused(Linear):
        def forward(self, x: torch.Tensor, *args: object, **kwargs: object) -> torch.Tensor:
            active = [name for name in self.active_adapters if name in self.lora_A]
            if args or kwargs or self.disable_adapters or self.merged or len(active) != 1 or not self._is_plain(active[0], x):
                result: torch.Tensor = super().forward(x, *args, **kwargs)
                return result
            (name,) = active
            base, low = self.base_layer(x), self.lora_A[name](self.lora_dropout[name](x))
            return torch.addmm(base.flatten(0, -2), low.flatten(0, -2), self.lora_B[name].weight.t(), alpha=self.scaling[name]).view(base.shape)

        def _is_plain(self, name: str, x: torch.Tensor) -> bool:
            """LoRA as it was published, in one number type."""
            return name not in self.lora_variant and (x.dtype == self.lora_A[name].weight.dtype or torch.is_autocast_enabled(x.device.type))

    config._register_custom_module({torch.nn.Linear: Fused})
    return config


def give_memory_back() -> None:
    """Returns what a training left to the system: glibc keeps half a gigabyte of it, and what comes next does not fit in the holes."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # not in musl or macOS
    if trim:
        trim(0)
