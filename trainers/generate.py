"""Answers of a model for many prompts at once, under the grammar that serving uses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from runtime.tasks.prompt import Prompt, prompt_ids
from trainers.memory import is_out_of_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH_ROWS, BATCH_TOKENS = 64, 16_384


def batched(lengths: Sequence[int]) -> Iterator[range]:
    """Runs of places in `lengths`, which rise, of at most BATCH_ROWS rows and BATCH_TOKENS tokens with their padding; one row at least."""
    start = 0
    for end, length in enumerate(lengths):
        rows = end - start + 1
        if rows > 1 and (rows > BATCH_ROWS or rows * length > BATCH_TOKENS):
            yield range(start, end)
            start = end
    if lengths:
        yield range(start, len(lengths))


def generate(model: PreTrainedModel, tokenizer: Any, prompts: Sequence[Prompt], grammars: Sequence[str | None], max_tokens: int, temperature: float = 0.0) -> list[str]:
    """One completion a prompt, without special tokens; `grammars[i]` None leaves the text free. Where memory is short for a batch, it is answered by halves.

    Each token is the likeliest, or drawn by torch's generator at a `temperature` above 0.
    """
    import xgrammar

    info = xgrammar.TokenizerInfo.from_huggingface(tokenizer, vocab_size=model.config.vocab_size, stop_token_ids=[tokenizer.eos_token_id])
    compiler = xgrammar.GrammarCompiler(info)
    ids = [prompt_ids(tokenizer, prompt) for prompt in prompts]
    # a batch is constrained as a whole or not at all
    kinds = [sorted((i for i in range(len(prompts)) if (grammars[i] is None) == free), key=lambda i: len(ids[i])) for free in (True, False)]
    todo = [[kind[at] for at in places] for kind in kinds for places in batched([len(ids[i]) + max_tokens for i in kind])]
    out = [""] * len(prompts)
    model.eval()
    while todo:
        batch = todo.pop()
        try:
            said = _completions(model, tokenizer, [ids[i] for i in batch], [compiler.compile_grammar(g) for i in batch if (g := grammars[i]) is not None], max_tokens, temperature)
        except Exception as error:
            if len(batch) == 1 or not is_out_of_memory(error):
                raise
            todo += [batch[: len(batch) // 2], batch[len(batch) // 2 :]]
            continue
        for i, completion in zip(batch, said, strict=True):
            out[i] = completion
    return out


def _completions(model: PreTrainedModel, tokenizer: Any, ids: Sequence[list[int]], grammars: Sequence[Any], max_tokens: int, temperature: float) -> list[str]:
    import torch
    from xgrammar.contrib.hf import LogitsProcessor

    width = max(map(len, ids))
    tokens = torch.tensor([[tokenizer.pad_token_id] * (width - len(row)) + row for row in ids], device=model.device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in ids], device=model.device)
    processors = [LogitsProcessor(list(grammars))] if grammars else []
    drawn = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {"do_sample": False}
    with torch.inference_mode():
        made = model.generate(
            input_ids=tokens, attention_mask=mask, max_new_tokens=max_tokens, logits_processor=processors, **drawn,
            pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
        )  # fmt: skip
    return [tokenizer.decode(row[width:], skip_special_tokens=True) for row in made]
