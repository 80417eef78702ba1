"""An adapter's part within one product: what PEFT's own layers give, in fewer passes."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import LlamaConfig, LlamaForCausalLM

from runtime.project import Recipe
from trainers.backends.trl import lora_of
from trainers.base_model import fused

SIZES = {"vocab_size": 50, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS = torch.tensor([[5, 9, 31, 7], [2, 40, 8, 8]])


def config(*, dora: bool = False) -> LoraConfig:
    made = lora_of(Recipe(rank=4, alpha=12))
    made.use_dora = dora
    return made


def adapted(made: LoraConfig, dtype: torch.dtype = torch.float32) -> PeftModel:
    """A model with an adapter that changes its answers; the same weights on each call."""
    torch.manual_seed(0)
    model = get_peft_model(LlamaForCausalLM(LlamaConfig(**SIZES)).to(dtype), made)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.1)
    return model


def logits_and_gradients(model: PeftModel) -> tuple[torch.Tensor, list[torch.Tensor]]:
    logits = model(input_ids=IDS).logits.float()
    logits.square().mean().backward()
    return logits.detach(), [weight.grad for weight in model.parameters() if weight.grad is not None]


def difference(some: list[torch.Tensor], others: list[torch.Tensor]) -> float:
    """Of the largest element of each."""
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in zip(some, others, strict=True))


@pytest.mark.parametrize(("dora", "weights"), [(False, 2), (True, 3)])
def test_logits_and_gradients_are_those_of_peft(dora: bool, weights: int) -> None:
    expected, theirs = logits_and_gradients(adapted(config(dora=dora)))
    found, ours = logits_and_gradients(adapted(fused(config(dora=dora))))
    assert len(ours) == weights * 7 * SIZES["num_hidden_layers"]
    assert difference([found, *ours], [expected, *theirs]) < 1e-5


@pytest.mark.parametrize(("dtype", "autocast"), [(torch.float32, True), (torch.bfloat16, False)])
def test_in_16_bits_they_are_as_near_to_those_of_32(dtype: torch.dtype, autocast: bool) -> None:
    exact, gradients = logits_and_gradients(adapted(config()))
    with torch.autocast("cpu", torch.bfloat16) if autocast else nullcontext():
        expected, theirs = logits_and_gradients(adapted(config(), dtype))
        found, ours = logits_and_gradients(adapted(fused(config()), dtype))
    assert difference([found, *ours], [exact, *gradients]) < 1.1 * difference([expected, *theirs], [exact, *gradients])


def test_an_adapter_is_left_out_or_another_taken_as_with_peft() -> None:
    models = [adapted(made) for made in (config(), fused(config()))]
    for model in models:
        torch.manual_seed(1)
        model.add_adapter("second", LoraConfig(r=2, lora_alpha=2, target_modules=["q_proj", "down_proj"], init_lora_weights=False))

    def said(by: str | list[str]) -> list[torch.Tensor]:
        for model in models:
            model.base_model.set_adapter(by)
        with torch.inference_mode():
            return [model(input_ids=IDS).logits for model in models]

    first, second, both = said("default"), said("second"), said(["default", "second"])
    with models[0].disable_adapter(), models[1].disable_adapter():
        none = said("default")
    with torch.inference_mode():
        each = [model.eval()(input_ids=IDS, adapter_names=["second", "default"]).logits for model in models]
    for theirs, ours in (first, second, both, none, each):
        assert (theirs - ours).abs().max() < 1e-5
    assert min(float((a - b).abs().max()) for a in (first[1], second[1], both[1]) for b in (none[1],)) > 1e-2


def test_it_takes_one_product_where_peft_scales_and_adds() -> None:
    layer = next(module for name, module in adapted(fused(config())).named_modules() if name.endswith("q_proj"))
    made = layer(torch.ones(2, 3, 32, requires_grad=True))
    assert [type(step[0]).__name__ for step in made.grad_fn.next_functions] == ["AddmmBackward0"]
