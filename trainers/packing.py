"""Examples end to end in one row, without padding, none of which sees another (Krell et al. 2021, arXiv:2107.02027).

All but attention sees the tokens of a batch as one text; attention gives each example a row of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import structlog

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PreTrainedModel

log = structlog.get_logger()

ATTENTION = "loom-packed"
MULTIPLE = 32
"""Rows are as long as a multiple of this, by a filler that is an example of its own, or by padding: kernels are made anew for each size."""
IGNORED = -100
TOLERANCE, COARSE_TOLERANCE = 1e-4, 5e-2
"""In nats a token: the loss of an example in a row may differ so much from its loss alone, in 16 bits more. What sees its neighbours differs by far more."""
FULL_BYTES = 4
PROBE = (23, 5, 14)
"""Lengths of the examples that it is tried on."""
Collate = Callable[[Sequence[Mapping[str, Sequence[int]]]], dict[str, Any]]


def pack(examples: Sequence[Mapping[str, Sequence[int]]]) -> dict[str, Any]:
    """`input_ids`, `labels` and `position_ids` of all examples as one row, each (1, tokens); the rest is for `attention`."""
    import torch

    ids = [token for example in examples for token in example["input_ids"]]
    labels = [label for example in examples for label in (IGNORED, *example["labels"][1:])]  # nothing is before a first token
    filler = -len(ids) % MULTIPLE
    lengths = torch.tensor([len(example["input_ids"]) for example in examples] + [filler] * bool(filler))
    positions = torch.cat([torch.arange(length) for length in lengths.tolist()])
    width = int(lengths.max())
    return {
        "input_ids": torch.tensor([ids + [0] * filler]), "labels": torch.tensor([labels + [IGNORED] * filler]), "position_ids": positions[None],
        "places": torch.repeat_interleave(torch.arange(len(lengths)), lengths) * width + positions, "shape": (len(lengths), width),
    }  # fmt: skip


def attention(module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: None, *, scaling: float, places: Tensor, shape: tuple[int, int], **_: Any) -> tuple[Tensor, None]:
    """Causal attention within each example, (1, tokens, heads, size), of (1, heads, tokens, size) each; `places[n]` is where token n stands in rows of `shape`."""
    import torch

    rows, width = shape

    def unpacked(packed: Tensor) -> Tensor:
        flat = packed[0].transpose(0, 1)
        padded = flat.new_zeros(rows * width, *flat.shape[1:]).index_copy_(0, places, flat).view(rows, width, *flat.shape[1:]).transpose(1, 2)
        shared = query.shape[1] // packed.shape[1]
        return padded.repeat_interleave(shared, dim=1) if shared > 1 else padded

    asked, known, said = unpacked(query), unpacked(key), unpacked(value)
    if query.is_cuda:
        mixed = torch.nn.functional.scaled_dot_product_attention(asked, known, said, is_causal=True, scale=scaling)
    else:  # the backward pass of the fused one takes a quarter of a step at these lengths
        later = torch.full((width, width), torch.finfo(query.dtype).min, dtype=query.dtype).triu(1)
        mixed = (asked * scaling @ known.transpose(-1, -2) + later).softmax(dim=-1) @ said
    return mixed.transpose(1, 2).reshape(rows * width, *mixed.shape[1::2]).index_select(0, places)[None], None


@contextmanager
def packed(model: PreTrainedModel) -> Iterator[Collate | None]:
    """Within it `model` takes what `pack` makes, unless its losses would be others than those of each example alone: then it is None, and examples must be padded."""
    from transformers import AttentionInterface

    AttentionInterface.register(ATTENTION, attention)
    before, alone = model.config._attn_implementation, _losses_alone(model)
    try:
        model.set_attn_implementation(ATTENTION)
        nats = _difference(model, alone)
        if nats <= (TOLERANCE if model.dtype.itemsize == FULL_BYTES else COARSE_TOLERANCE):
            yield pack
        else:
            log.info("training.padded", difference_nats=nats)
            model.set_attn_implementation(before)
            yield None
    finally:
        model.set_attn_implementation(before)


def _difference(model: PreTrainedModel, alone: Tensor) -> float:
    """Nats by which a token's loss in a row differs at most from its loss alone; infinite where the model can't take a row."""
    try:
        return float((_losses_packed(model) - alone).abs().max())
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:  # of the model's own code, which does not know our arguments
        log.info("training.not_packed", reason=f"{type(error).__name__}: {error}")
        return math.inf


def _probe(model: PreTrainedModel) -> list[dict[str, list[int]]]:
    known = model.get_input_embeddings().weight.shape[0]
    texts = [[(7 * place + 31 * length) % known for place in range(length)] for length in PROBE]
    return [{"input_ids": text, "labels": text} for text in texts]


def _losses_alone(model: PreTrainedModel) -> Tensor:
    import torch

    with torch.inference_mode():
        rows = [torch.tensor([example["input_ids"]], device=model.device) for example in _probe(model)]
        return torch.cat([torch.nn.functional.cross_entropy(model(input_ids=row, use_cache=False).logits[0, :-1].float(), row[0, 1:], reduction="none") for row in rows])


def _losses_packed(model: PreTrainedModel) -> Tensor:
    import torch

    with torch.inference_mode():
        row = {name: value.to(model.device) if hasattr(value, "to") else value for name, value in pack(_probe(model)).items()}
        targets = row.pop("labels")[0, 1:]
        learnt = targets != IGNORED
        return torch.nn.functional.cross_entropy(model(**row, use_cache=False).logits[0, :-1][learnt].float(), targets[learnt], reduction="none")
