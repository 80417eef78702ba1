"""How much memory and time a training and its serving will take, before either is begun: `loom plan`. Arithmetic, but for counting a model's weights.

Counts of operations after Kaplan et al. 2020 (arXiv:2001.08361, table 1); of activations after Korthikanti et al. 2022
(arXiv:2205.05198, section 4), for the layers of Llama. How far off they were is in docs/benchmarks.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from runtime.errors import SettingsError
from runtime.project import Recipe

ADAM_BYTES = 16
"""Of a trained weight: itself, its gradient and two moments, in float32."""
PROCESS_BYTES = 820 << 20
"""Python, torch and TRL, before a model is there."""
EFFICIENCY = 0.27
"""The share of the speed of large products of matrices that a training of small ones reached (0.22 to 0.32, docs/benchmarks.md)."""
WORKSPACE = 1.35
"""What allocators hold beside what is in use."""
HALF, FULL = 2, 4
"""Bytes of a number."""
REPEATS = 8
GPU_SHARE = 0.9
"""What vLLM takes of a GPU's memory."""
BATCH_TOKENS, BATCH_REQUESTS = 2048, 256
"""What it runs at once at most: tokens of prompts, and requests, each with a row of logits in float32."""
GRAPH_BYTES = 1 << 30
"""Of CUDA graphs and libraries: an estimate, no GPU was there to measure it."""


@dataclass(frozen=True, slots=True)
class Shape:
    """What matters of a decoder: its sizes, its weights, and what a LoRA adapter of rank 1 on all its linear layers has."""

    layers: int
    width: int
    inner: int
    heads: int
    kv_width: int
    weights: int
    linear_weights: int
    lora_weights_a_rank: int
    vocabulary: int


@dataclass(frozen=True, slots=True)
class Machine:
    """Where it is to run: bytes of memory, operations a second in large products, bytes of a frozen weight and of an activation."""

    memory_bytes: int
    flops: float
    bytes_a_number: int
    is_gpu: bool


@dataclass(frozen=True, slots=True)
class Training:
    """Peak bytes, of which so many are activations; seconds and steps."""

    memory_bytes: int
    activation_bytes: int
    steps: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Serving:
    """Bytes of the base, of the slots of adapters that are in one batch, of what a batch and CUDA graphs take beside them, of the keys and values of a token; and
    for how many tokens, in how many requests of a length, there is room for these."""

    weights_bytes: int
    adapters_bytes: int
    batch_bytes: int
    token_bytes: int
    cache_bytes: int
    cache_tokens: int
    requests: float


def shape_of(base: str) -> Shape:
    """The shape of the model in a folder, or of a hub's name; no weight is read.

    Raises:
        SettingsError: there is no configuration that transformers can read.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config = AutoConfig.from_pretrained(base)
    except (OSError, ValueError) as error:
        raise SettingsError(f"the model {base!r} has no configuration that can be read here: name a folder with a config.json, or a model of a hub in reach ({error})") from error
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head = model.get_output_embeddings()
    linear = [module for module in model.modules() if isinstance(module, torch.nn.Linear) and module is not head]
    text: Any = config.get_text_config()
    head_size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return Shape(
        text.num_hidden_layers, text.hidden_size, text.intermediate_size, text.num_attention_heads, 2 * text.num_key_value_heads * head_size,
        sum(weight.numel() for weight in model.parameters()), sum(module.weight.numel() for module in linear), sum(module.in_features + module.out_features for module in linear), text.vocab_size,
    )  # fmt: skip


def training(shape: Shape, recipe: Recipe, machine: Machine, examples: int, tokens: float, rows: int, *, is_whole: bool = False, shards: int = 1) -> Training:
    """Of a LoRA adapter, or of all weights, on so many examples of `tokens` tokens each, with `rows` of them in memory at once. Of weights that are all
    trained and that `shards` processes share, the memory is each one's. Pure."""
    steps = recipe.steps_of(examples)
    rank = 0 if is_whole else recipe.rank
    lora = rank * shape.lora_weights_a_rank
    activations = math.ceil(rows * tokens * activation_numbers(shape, rank, tokens) * machine.bytes_a_number)
    weights = (shape.weights * ADAM_BYTES // shards if is_whole else shape.weights * machine.bytes_a_number) + lora * ADAM_BYTES
    memory = weights + math.ceil(WORKSPACE * activations) + (0 if machine.is_gpu else PROCESS_BYTES)
    operations = steps * recipe.batch_size * tokens * token_operations(shape, lora, tokens, is_whole=is_whole)
    return Training(memory, activations, steps, operations / (EFFICIENCY * machine.flops))


def activation_numbers(shape: Shape, rank: int, tokens: float) -> float:
    """Numbers that the backward pass needs of a token, in all layers: norms, queries, keys and values, their sums, the gated inner layer, LoRA's own; scores of eager attention. Pure."""
    layer = 13 * shape.width + 4 * shape.inner + 7 * rank + 2 * shape.heads * tokens
    return shape.layers * layer + shape.width


def token_operations(shape: Shape, lora: int, tokens: float, *, is_whole: bool) -> float:
    """Of forward and backward pass: frozen weights are not differentiated, an adapter's are. Pure."""
    attention = 6 * 2 * shape.layers * shape.width * tokens
    return (6 if is_whole else 4) * shape.linear_weights + 6 * lora + attention


def serving(shape: Shape, rank: int, adapters: int, memory_bytes: int, context: int, number_bytes: int = HALF) -> Serving:
    """Of an engine with slots for so many adapters at once, on a GPU of so much memory of which vLLM takes its nine tenths, and requests of `context` tokens. Pure."""
    weights, slots, token = shape.weights * number_bytes, adapters * rank * shape.lora_weights_a_rank * number_bytes, shape.layers * shape.kv_width * number_bytes
    batch = BATCH_TOKENS * (2 * shape.inner + 6 * shape.width) * number_bytes + BATCH_REQUESTS * shape.vocabulary * FULL + GRAPH_BYTES
    cache = max(0, math.floor(GPU_SHARE * memory_bytes) - weights - slots - batch)
    return Serving(weights, slots, batch, token, cache, cache // token, cache / token / context)


def machine_here() -> Machine:
    """The machine that it runs on, with as many threads as torch has: how fast it multiplies large matrices is measured, in the number type that trainings take."""
    import torch

    from runtime.machine import memory_bytes
    from runtime.precision import is_bfloat16_faster, seconds_of

    on_gpu, half = torch.cuda.is_available(), is_bfloat16_faster()
    size = 8192 if on_gpu else 1024
    matrix = torch.ones(size, size, dtype=torch.bfloat16 if half else torch.float32, device="cuda" if on_gpu else "cpu")
    best = min(seconds_of(matrix, matrix) for _ in range(REPEATS))
    memory = torch.cuda.get_device_properties(0).total_memory if on_gpu else memory_bytes()
    return Machine(memory, 2 * size**3 / best, HALF if on_gpu else FULL, on_gpu)
