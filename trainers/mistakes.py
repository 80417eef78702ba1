"""Answers of an SFT adapter to what it was trained on that are wrong: rejected ones of its own making, beside those that rules and teachers think of.

Source: Pang et al. 2024, arXiv:2404.19733, section 2, where pairs are made of the model's own answers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runtime.tasks.grammar import MAX_TOKENS, grammar
from runtime.tasks.prompt import completion_ids, prompt_ids
from runtime.tasks.samples import render
from trainers.backends import Pair
from trainers.evaluate import Asked, read_answer, score
from trainers.generate import generate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WRONG = 0.5
"""An answer that scores less is rejected; a call scores nothing or one."""
TEMPERATURE = 1.0


def own_mistakes(model: PreTrainedModel, tokenizer: Any, learnt: Sequence[Asked], count: int, seed: int) -> list[tuple[Asked, Pair]]:
    """What `model` gets wrong of `count` examples of `learnt`, drawn from it once under serving's grammar and once without: each example with prompt as in training, the right answer, its own."""
    import torch

    asked = random.Random(seed).sample(learnt, min(count, len(learnt)))
    if not asked:
        return []
    spec = asked[0].spec
    rendered = [render(one.spec, one.row.body, random.Random(f"{seed}:{one.row.example_id}")) for one in asked]
    rejected: dict[tuple[int, str], None] = {}  # in the order of their finding, once each
    for grammars in ([grammar(one.spec, one.given) for one in asked], [None] * len(asked)):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            said = generate(model, tokenizer, [prompt for prompt, _ in rendered], grammars, MAX_TOKENS[spec.task], TEMPERATURE)
        scores = score(spec, [read_answer(one.spec, completion, one.given) for one, completion in zip(asked, said, strict=True)], [one.wanted for one in asked]).each
        rejected |= {(place, wrong): None for place, (wrong, value) in enumerate(zip(said, scores, strict=True)) if value < WRONG}
    return [(asked[place], (prompt_ids(tokenizer, rendered[place][0]), completion_ids(tokenizer, rendered[place][1]), completion_ids(tokenizer, wrong))) for place, wrong in rejected]
