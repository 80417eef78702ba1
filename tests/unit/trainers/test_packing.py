"""Packing: each example's loss is what it is alone, whatever lies beside it; a model that packing would change is given padded rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from trainers.packing import ATTENTION, IGNORED, MULTIPLE, pack, packed

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "attn_implementation": "eager"}


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES)).eval()


def losses(model: PreTrainedModel, row: dict[str, torch.Tensor]) -> torch.Tensor:
    labels = row["labels"][0, 1:]
    inputs = {name: value for name, value in row.items() if name != "labels"}
    return cross_entropy(model(**inputs, use_cache=False).logits[0, :-1][labels != IGNORED], labels[labels != IGNORED], reduction="none")


EXAMPLES = st.lists(st.lists(st.integers(0, 49), min_size=2, max_size=40), min_size=1, max_size=6)


@settings(deadline=None, max_examples=25)
@given(texts=EXAMPLES)
def test_a_token_has_the_loss_and_the_gradient_that_it_has_alone(model: PreTrainedModel, texts: list[list[int]]) -> None:
    alone = torch.cat([losses(model, {"input_ids": torch.tensor([text]), "labels": torch.tensor([text])}) for text in texts])
    weight = model.get_input_embeddings().weight
    expected = torch.autograd.grad(alone.sum(), weight)[0]
    with packed(model) as collate:
        assert collate is pack
        together = losses(model, pack([{"input_ids": text, "labels": text} for text in texts]))
        found = torch.autograd.grad(together.sum(), weight)[0]
    assert (together - alone).abs().max() < 1e-5
    assert (found - expected).abs().max() < 1e-4


@given(texts=EXAMPLES)
def test_a_row_holds_every_token_once_and_little_else(texts: list[list[int]]) -> None:
    row = pack([{"input_ids": text, "labels": [IGNORED, *text[1:]]} for text in texts])
    ids, labels, places = row["input_ids"][0], row["labels"][0], row["places"]
    real = sum(map(len, texts))
    assert ids[:real].tolist() == [token for text in texts for token in text]
    assert len(ids) % MULTIPLE == 0
    assert len(ids) - real < MULTIPLE
    assert (labels[real:] == IGNORED).all()
    assert len(set(places.tolist())) == len(ids)
    assert int(places.max()) < row["shape"][0] * row["shape"][1]


def test_a_model_whose_attention_is_another_is_padded() -> None:
    torch.manual_seed(0)
    windowed = MistralForCausalLM(MistralConfig(**SIZES, sliding_window=4)).eval()
    with packed(windowed) as collate:
        assert collate is None
        assert windowed.config._attn_implementation == "eager"


def test_the_model_has_its_own_attention_back_afterwards(model: PreTrainedModel) -> None:
    with packed(model):
        assert model.config._attn_implementation == ATTENTION
    assert model.config._attn_implementation == "eager"
