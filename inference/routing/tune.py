"""A sentence encoder taught to tell routes apart: any encoder that transformers knows (MiniLM, DistilBERT, BERT, RoBERTa and alike), its mean-pooled vectors under a
linear layer, trained by cross entropy; then an ONNX graph with 8-bit integers."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import structlog

from inference.routing.decision import Route
from inference.routing.fit import Labelled
from runtime.encoder import GRAPH, MAX_TOKENS, TOKENIZER, export, load_model, mean_of_tokens, quantise
from runtime.errors import InvalidInput

log = structlog.get_logger()
LEARNING_RATE, HEAD_LEARNING_RATE = 1e-4, 1e-3
BATCH = 32
WARM_UP = 0.1
SCALE = 16.0
"""Of unit vectors before the linear layer: an inverse temperature."""
DROPOUT = 0.1
SORTED_BATCHES = 40
"""Texts of so many batches are sorted by length, so that little is padded."""
Hear = Callable[[int, int, float], None]
"""Told of step, steps and loss."""


def tune(model: str, rows: Sequence[Labelled], folder: Path, epochs: int, seed: int = 0, hear: Hear | None = None) -> None:
    """Trains the encoder in folder `model`, or of that name on the hub, on `rows`, and writes graph and tokenizer to `folder`.

    Raises:
        InvalidInput: the encoder has no fast tokenizer, or none that can be read.
    """
    import torch
    from transformers import AutoTokenizer

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    try:
        tokenizer, encoder = AutoTokenizer.from_pretrained(model), load_model(model)
    except (OSError, ValueError) as error:
        raise InvalidInput(f"{model} is no encoder that transformers can read: {error}") from error
    if not tokenizer.is_fast:
        raise InvalidInput(f"{model} has no tokenizer.json, which the router needs")
    routes = sorted({route for row in rows for route in row.routes})
    exclusive = all(len(row.routes) <= 1 for row in rows)
    targets = _targets(rows, routes, exclusive)
    texts = [tokenizer(row.text, truncation=True, max_length=MAX_TOKENS)["input_ids"] for row in rows]
    layer = torch.nn.Linear(encoder.config.hidden_size, targets.shape[1])
    dropout, loss_of = torch.nn.Dropout(DROPOUT), torch.nn.functional.cross_entropy if exclusive else torch.nn.functional.binary_cross_entropy_with_logits
    optimizer = torch.optim.AdamW([{"params": encoder.parameters(), "lr": LEARNING_RATE}, {"params": layer.parameters(), "lr": HEAD_LEARNING_RATE}], weight_decay=0.01)
    steps = epochs * -(-len(rows) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / (WARM_UP * steps)) * (steps - step) / steps)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    encoder, layer = encoder.to(device).train(), layer.to(device)
    step, began = 0, time.monotonic()
    for _ in range(epochs):
        for batch in _batches([len(text) for text in texts], rng):
            ids, mask = _padded([texts[at] for at in batch])
            vectors = torch.nn.functional.normalize(mean_of_tokens(encoder, ids.to(device), mask.to(device)), dim=-1)
            loss = loss_of(layer(dropout(vectors * SCALE)), torch.from_numpy(targets[batch]).to(device))
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_([*encoder.parameters(), *layer.parameters()], 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            if hear:
                hear(step, steps, float(loss.detach()))
    log.info("encoder.tuned", rows=len(rows), routes=len(routes), seconds=round(time.monotonic() - began))
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as part:
        export(encoder.cpu().eval(), Path(part) / GRAPH)
        quantise(Path(part) / GRAPH, folder / GRAPH, encoder.config.num_attention_heads, encoder.config.hidden_size)
        tokenizer.save_pretrained(part)
        shutil.copy(Path(part) / TOKENIZER, folder / TOKENIZER)


def _targets(rows: Sequence[Labelled], routes: Sequence[Route], exclusive: bool) -> np.ndarray[Any, np.dtype[np.float32]]:
    """(rows, outputs): where routes exclude one another, out of scope is the last one."""
    wanted = np.array([[route in row.routes for route in routes] for row in rows], dtype=np.float32)
    outside = 1 - wanted.max(1, keepdims=True)
    return np.concatenate([wanted, outside], axis=1) if exclusive and outside.any() else wanted


def _batches(lengths: Sequence[int], rng: np.random.Generator) -> Iterator[list[int]]:
    """Rows in an order of chance, those of a batch of about one length."""
    order = rng.permutation(len(lengths))
    batches = []
    for at in range(0, len(order), BATCH * SORTED_BATCHES):
        near = sorted(order[at : at + BATCH * SORTED_BATCHES], key=lambda row: lengths[row])
        batches += [near[i : i + BATCH] for i in range(0, len(near), BATCH)]
    for at in rng.permutation(len(batches)):
        yield [int(row) for row in batches[at]]


def _padded(texts: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    """Ids and mask as tensors (texts, longest)."""
    import torch

    longest = max(map(len, texts))
    ids, mask = torch.zeros((len(texts), longest), dtype=torch.int64), torch.zeros((len(texts), longest), dtype=torch.int64)
    for row, text in enumerate(texts):
        ids[row, : len(text)], mask[row, : len(text)] = torch.tensor(text), 1
    return ids, mask
