"""Greedy answers of a model for many prompts at once, under the grammar that serving uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runtime.tasks.prompt import Prompt, prompt_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH = 64


def batched(items: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    """`items` in runs of `size`; the last may be shorter."""
    yield from (items[at : at + size] for at in range(0, len(items), size))


def generate(model: PreTrainedModel, tokenizer: Any, prompts: Sequence[Prompt], grammars: Sequence[str | None], max_tokens: int) -> list[str]:
    """One completion a prompt, without special tokens; `grammars[i]` None leaves the text free."""
    import torch
    import xgrammar
    from xgrammar.contrib.hf import LogitsProcessor

    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=model.config.vocab_size, stop_token_ids=[tokenizer.eos_token_id])
    compiler = xgrammar.GrammarCompiler(info)
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    # a batch is constrained as a whole or not at all
    kinds = [[i for i in range(len(prompts)) if (grammars[i] is None) == free] for free in (True, False)]
    batches = [batch for kind in kinds for batch in batched(sorted(kind, key=lambda i: len(ids[i])), BATCH)]
    out = [""] * len(prompts)
    model.eval()
    for batch in batches:
        width = max(len(ids[i]) for i in batch)
        tokens = torch.tensor([[tokenizer.pad_token_id] * (width - len(ids[i])) + ids[i] for i in batch], device=model.device)
        mask = torch.tensor([[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in batch], device=model.device)
        compiled = [compiler.compile_grammar(g) for i in batch if (g := grammars[i]) is not None]
        processors = [LogitsProcessor(compiled)] if compiled else []
        with torch.inference_mode():
            made = model.generate(
                input_ids=tokens, attention_mask=mask, max_new_tokens=max_tokens, do_sample=False, logits_processor=processors,
                pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
        for i, row in zip(batch, made, strict=True):
            out[i] = tokenizer.decode(row[width:], skip_special_tokens=True)
    return out
