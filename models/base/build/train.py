"""Pre-trains the base model, on a CPU or a GPU; what was cut off goes on when started again.

    python -m models.base.build.train TOKENS_DIR OUT_DIR MILLION_TOKENS [--rows 32] [--start-from FOLDER]

Pure bfloat16 weights with float32 masters; Muon for the hidden matrices (Jordan et al. 2024, with the update scaled to
AdamW's RMS as in Liu et al. 2025, arXiv:2502.16982), AdamW for embeddings and norms; constant rate for half of the steps,
then linear to zero. Beside the next token the model is taught the vector of a sentence where it is about to answer it
(`sentences.py`; DISTILLED_AT says after which layer), by a projection that is thrown away. Writes a Hugging Face Llama
folder.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from models.base.build.corpus import SPECIAL
from runtime.encoder import DIMENSIONS

VOCABULARY, HIDDEN, LAYERS, INNER, HEADS, CONTEXT = 4096, 256, 8, 704, 4, 512
HEAD = HIDDEN // HEADS
THETA = 10_000.0
MIX = {"books": 0.14, "docs": 0.11, "dialogues": 0.015, "rules": 0.14, "quotes": 0.18, "labelled": 0.07, "conversations": 0.015, "sentences": 0.33}
BOS, ASSISTANT, IGNORED = SPECIAL.index("<|bos|>"), SPECIAL.index("<|assistant|>"), -100
VECTOR, DISTILLED_AT, DISTILLED_WEIGHT, MOST_TAUGHT = DIMENSIONS, 6, 3.0, 20
PEAK, WARM, WEIGHT_DECAY = 2.5e-3, 0.01, 0.1


class Block(nn.Module):
    """A Llama layer: attention with rotary positions, then a gated MLP; input (batch, sequence, hidden)."""

    def __init__(self) -> None:
        super().__init__()
        self.n1, self.n2 = nn.RMSNorm(HIDDEN, eps=1e-5), nn.RMSNorm(HIDDEN, eps=1e-5)
        self.q, self.k, self.v, self.o = (nn.Linear(HIDDEN, HIDDEN, bias=False) for _ in range(4))
        self.gate, self.up = nn.Linear(HIDDEN, INNER, bias=False), nn.Linear(HIDDEN, INNER, bias=False)
        self.down = nn.Linear(INNER, HIDDEN, bias=False)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        batch, length, _ = x.shape
        h = self.n1(x)

        def heads(t: Tensor) -> Tensor:
            return t.view(batch, length, HEADS, HEAD).transpose(1, 2)

        def rotate(t: Tensor) -> Tensor:
            a, b = t.chunk(2, -1)
            return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)

        mixed = F.scaled_dot_product_attention(rotate(heads(self.q(h))), rotate(heads(self.k(h))), heads(self.v(h)), is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(batch, length, HIDDEN))
        h = self.n2(x)
        return x + self.down(F.silu(self.gate(h)) * self.up(h))


class Model(nn.Module):
    """The language model with tied embeddings, and the projection of layer DISTILLED_AT to sentence vectors."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(VOCABULARY, HIDDEN)
        self.blocks = nn.ModuleList(Block() for _ in range(LAYERS))
        self.norm = nn.RMSNorm(HIDDEN, eps=1e-5)
        self.vector = nn.Linear(HIDDEN, VECTOR, bias=False)
        for name, weight in self.named_parameters():
            if weight.dim() == 2:
                depth = math.sqrt(2 * LAYERS) if name.endswith(("o.weight", "down.weight")) else 1
                nn.init.normal_(weight, std=0.02 / depth)

    def forward(self, x: Tensor, y: Tensor, cos: Tensor, sin: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """The mean cross entropy of `y`, (batch, sequence) like `x`, and the vectors at the flat positions `at`, (positions, VECTOR)."""
        h = self.embed(x)
        for layer, block in enumerate(self.blocks, 1):
            h = block(h, cos, sin)
            if layer == DISTILLED_AT:
                vectors = self.vector(F.rms_norm(h.view(-1, HIDDEN)[at], (HIDDEN,)))
        logits = F.linear(self.norm(h), self.embed.weight)
        return F.cross_entropy(logits.view(-1, VOCABULARY).float(), y.reshape(-1), ignore_index=IGNORED), vectors


Marked = tuple[np.ndarray, np.ndarray]
"""Tokens, and beside each the row of its vector, or -1."""


@dataclass
class Masters:
    """Float32 copies of the weights, which the optimisers step; the bfloat16 model follows them."""

    model: Model

    def __post_init__(self) -> None:
        self.weights = list(self.model.parameters())
        self.copies = [w.detach().float().clone() for w in self.weights]
        hidden = {id(w) for block in self.model.blocks for w in block.parameters() if w.dim() == 2}
        matrices = [c for w, c in zip(self.weights, self.copies, strict=True) if id(w) in hidden]
        rest = [c for w, c in zip(self.weights, self.copies, strict=True) if id(w) not in hidden]
        self.optimisers: list[torch.optim.Optimizer] = [
            torch.optim.Muon(matrices, lr=PEAK, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(rest, lr=PEAK, betas=(0.9, 0.95), weight_decay=0.0, fused=True),
        ]

    def step(self, rate: float) -> None:
        """One step at the learning rate `rate` from the model's gradients, which it takes."""
        for copy, weight in zip(self.copies, self.weights, strict=True):
            copy.grad, weight.grad = weight.grad.float(), None
        nn.utils.clip_grad_norm_(self.copies, 1.0)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = rate
            optimiser.step()
        with torch.no_grad():
            for copy, weight in zip(self.copies, self.weights, strict=True):
                weight.copy_(copy)

    def state(self, step: int) -> dict[str, Any]:
        """All that `restore` needs; `step` steps are done."""
        return {"step": step, "copies": self.copies, "optimisers": [optimiser.state_dict() for optimiser in self.optimisers]}

    def restore(self, state: dict[str, Any]) -> int:
        """Goes back to `state`; the number of steps that were done."""
        with torch.no_grad():
            for copy, weight, saved in zip(self.copies, self.weights, state["copies"], strict=True):
                copy.copy_(saved)
                weight.copy_(saved)
        for optimiser, saved in zip(self.optimisers, state["optimisers"], strict=True):
            optimiser.load_state_dict(saved)
        return int(state["step"])


def rotary(device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the positions, (sequence, head / 2)."""
    angles = torch.outer(torch.arange(CONTEXT).float(), THETA ** (-torch.arange(0, HEAD, 2).float() / HEAD))
    return angles.cos().bfloat16().to(device), angles.sin().bfloat16().to(device)


def rate_at(share: float) -> float:
    """The learning rate after `share` of the steps."""
    if share < WARM:
        return PEAK * share / WARM
    return PEAK if share < 0.5 else max(1e-5, PEAK * (1 - share) / 0.5)


def held_windows(tokens: np.ndarray) -> Tensor:
    """The first 32 windows of a held-out source, (windows, CONTEXT + 1)."""
    windows = min(32, (len(tokens) - 1) // CONTEXT)
    return torch.from_numpy(np.stack([tokens[i * CONTEXT : i * CONTEXT + CONTEXT + 1] for i in range(windows)]).astype(np.int64))


@torch.no_grad()  # type: ignore[untyped-decorator]
def perplexities(model: Model, held: dict[str, np.ndarray], cos: Tensor, sin: Tensor) -> dict[str, float]:
    """Perplexity per token of each source's held-out windows."""
    out = {}
    for name, tokens in held.items():
        if len(tokens) > CONTEXT:
            batch = held_windows(tokens).to(cos.device)
            out[name] = round(math.exp(model(batch[:, :-1], wanted(batch), cos, sin, batch.new_zeros(1))[0].item()), 2)
    return out


@torch.no_grad()  # type: ignore[untyped-decorator]
def likeness(model: Model, held: Marked, vectors: np.ndarray, cos: Tensor, sin: Tensor) -> float:
    """Mean cosine between the model's and the teacher's vectors in held-out windows of sentences."""
    batch, targets = map(held_windows, held)
    at, truth = taught(targets, vectors)
    _, got = model(batch[:, :-1].to(cos.device), wanted(batch).to(cos.device), cos, sin, at.to(cos.device))
    return float(round(F.cosine_similarity(got.float(), truth.to(cos.device)).mean().item(), 4))


def wanted(batch: Tensor) -> Tensor:
    """The next tokens of windows (rows, CONTEXT + 1); none where a sentence ends without an answer."""
    following = batch[:, 1:].clone()
    following[(batch[:, :-1] == ASSISTANT) & (following == BOS)] = IGNORED
    return following


def taught(targets: Tensor, vectors: np.ndarray) -> tuple[Tensor, Tensor]:
    """Flat positions in (rows, CONTEXT) that have a target, and their vectors."""
    flat = targets[:, :-1].reshape(-1)
    (at,) = torch.nonzero(flat >= 0, as_tuple=True)
    return at, torch.from_numpy(vectors[flat[at].numpy()].astype(np.float32))


def named_weights(model: Model) -> dict[str, Tensor]:
    """The weights under the names of Hugging Face's Llama."""
    names = {"q": "self_attn.q_proj", "k": "self_attn.k_proj", "v": "self_attn.v_proj", "o": "self_attn.o_proj", "gate": "mlp.gate_proj",
             "up": "mlp.up_proj", "down": "mlp.down_proj", "n1": "input_layernorm", "n2": "post_attention_layernorm"}  # fmt: skip
    weights = {"model.embed_tokens.weight": model.embed.weight, "model.norm.weight": model.norm.weight}
    for i, block in enumerate(model.blocks):
        weights |= {f"model.layers.{i}.{names[n.partition('.')[0]]}.weight": w for n, w in block.named_parameters()}
    return weights


def save(model: Model, out: Path) -> None:
    """`model` as a Hugging Face Llama folder."""
    tensors = {name: weight.detach().cpu().contiguous().clone() for name, weight in named_weights(model).items()}
    save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "intermediate_size": INNER,
        "num_hidden_layers": LAYERS, "num_attention_heads": HEADS, "num_key_value_heads": HEADS, "hidden_act": "silu", "max_position_embeddings": 1024,
        "rms_norm_eps": 1e-5, "rope_theta": THETA, "tie_word_embeddings": True, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "torch_dtype": "bfloat16",
    }  # fmt: skip
    (out / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def load(model: Model, folder: Path) -> None:
    """Puts the weights that `save` wrote to `folder` into `model`."""
    tensors = load_file(folder / "model.safetensors")
    with torch.no_grad():
        for name, weight in named_weights(model).items():
            weight.copy_(tensors[name])


def batch_at(step: int, data: dict[str, np.ndarray], targets: np.ndarray, rows: int) -> tuple[Tensor, Tensor]:
    """The windows of `step` and their targets, (rows, CONTEXT + 1): a function of the step, so that a resumed run reads on."""
    rng = np.random.default_rng([0, step])
    counts = rng.multinomial(rows, list(MIX.values()))
    starts = [(name, i) for name, n in zip(MIX, counts, strict=True) for i in rng.integers(0, len(data[name]) - CONTEXT - 1, n)]
    none = np.full(CONTEXT + 1, -1)
    tokens = np.stack([data[name][i : i + CONTEXT + 1] for name, i in starts]).astype(np.int64)
    return torch.from_numpy(tokens), torch.from_numpy(np.stack([targets[i : i + CONTEXT + 1] if name == "sentences" else none for name, i in starts]).astype(np.int64))


def train(source: Path, out: Path, million_tokens: float, rows: int, start_from: Path | None) -> None:
    """Trains on `million_tokens` and writes model, configuration, tokenizer and `training.json` to `out`.

    A run that was cut off goes on from `out/checkpoint.pt`, at most five minutes back.
    """
    out.mkdir(parents=True, exist_ok=True)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    data = {name: np.load(source / f"{name}.train.npy", mmap_mode="r") for name in MIX}
    held = {name: np.load(source / f"{name}.val.npy") for name in MIX}
    targets, held_targets = (np.load(source / f"sentences.{part}.targets.npy") for part in ("train", "val"))
    held_sentences = (held["sentences"], held_targets)
    vectors = np.load(source / "vectors.npy", mmap_mode="r")
    model = Model().to(device, torch.bfloat16)
    if start_from:
        load(model, start_from)
    masters, step_loss = Masters(model), torch.compile(model)
    cos, sin = rotary(device)
    steps, first, checkpoint = round(million_tokens * 1e6 / (rows * CONTEXT)), 0, out / "checkpoint.pt"
    if checkpoint.exists():
        first = masters.restore(torch.load(checkpoint, weights_only=True, map_location=device))
    began = last_report = last_save = time.monotonic()
    mean = 0.0
    for step in range(first, steps):
        batch, marked = batch_at(step, data, targets, rows)
        at, truth = taught(marked, vectors)
        slots = rows * MOST_TAUGHT  # one shape for all steps, else every step is compiled anew
        at, truth = at[:slots], truth[:slots].to(device)
        batch = batch.to(device)
        loss, got = step_loss(batch[:, :-1].contiguous(), wanted(batch), cos, sin, F.pad(at, (0, slots - len(at))).to(device))
        unlike = 1 - F.cosine_similarity(got[: len(at)].float(), truth).mean()
        (loss + DISTILLED_WEIGHT * unlike).backward()
        masters.step(rate_at(step / steps))
        mean = loss.item() if step == first else 0.98 * mean + 0.02 * loss.item()
        if time.monotonic() - last_report > 120:
            last_report = time.monotonic()
            rate = (step + 1 - first) * rows * CONTEXT / (last_report - began)
            print(f"step {step + 1} of {steps}, {rate:.0f} tokens/s, loss {mean:.3f}, {perplexities(model, held, cos, sin)}, likeness {likeness(model, held_sentences, vectors, cos, sin)}", flush=True)
        if time.monotonic() - last_save > 300:
            last_save = time.monotonic()
            torch.save(masters.state(step + 1), out / "checkpoint.new")
            (out / "checkpoint.new").replace(checkpoint)
    save(model, out)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / name, out / name)
    before = json.loads((start_from / "training.json").read_text())["tokens"] if start_from else 0
    parameters = sum(w.numel() for w in named_weights(model).values())
    tokens = before + steps * rows * CONTEXT
    report = {"steps": steps, "tokens": tokens, "device": device.type, "parameters": parameters, "mix": MIX, "perplexity": perplexities(model, held, cos, sin), "likeness": likeness(model, held_sentences, vectors, cos, sin)}
    (out / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    checkpoint.unlink(missing_ok=True)
    print(json.dumps(report))


if __name__ == "__main__":
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("source", type=Path)
    arguments.add_argument("out", type=Path)
    arguments.add_argument("million_tokens", type=float)
    arguments.add_argument("--rows", type=int, default=32, help="windows a step")
    arguments.add_argument("--start-from", type=Path, help="folder of a model of this shape and tokenizer to train on")
    given = arguments.parse_args()
    train(given.source, given.out, given.million_tokens, given.rows, given.start_from)
