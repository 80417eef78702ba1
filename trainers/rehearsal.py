"""What a base writes by itself, to be learned again beside the documents so that it is not forgotten.

It stands for the texts that the base was trained on, which nobody has (Huang et al. 2024, arXiv:2403.01244). As it is drawn from the base's own distribution, the
cross entropy of another model on it is the base's entropy and the divergence between the two: a perplexity on it rises by what was forgotten, and by nothing else.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

AT_ONCE_TOKENS = 16_384


def beside(share: float, windows: int) -> int:
    """So many windows of general text make `share` of all, beside `windows` of the documents. Pure."""
    return math.ceil(share / (1 - share) * windows)


def written_by(model: PreTrainedModel, tokenizer: Any, count: int, size: int, seed: int) -> list[list[int]]:
    """`count` windows of `size` tokens as `model` writes them from the beginning of a text, at temperature 1; ends of texts are no ends of windows.

    The same ones for the same seed, on the same kind of machine.
    """
    import torch
    from transformers import StaticCache

    start = tokenizer.eos_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    at_once = max(1, AT_ONCE_TOKENS // size)
    out: list[list[int]] = []
    model.eval()
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(seed)
        while len(out) < count:
            last = torch.full((min(at_once, count - len(out)), 1), start, device=model.device)
            written, known = [last], StaticCache(config=model.config, max_cache_len=size)  # one that grows is copied at every token: half of the time
            for _ in range(size - 1):
                made: Any = model(input_ids=last, past_key_values=known, use_cache=True)
                last = torch.multinomial(made.logits[:, -1].float().softmax(dim=-1), 1)
                written.append(last)
            out += torch.cat(written, dim=1).tolist()
    return out
