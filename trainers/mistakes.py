"""Answers of the live version that are wrong: rejected ones of its own making, beside those that rules and teachers think of.

Source: Pang et al. 2024, arXiv:2404.19733, section 2, where pairs are made of the model's own answers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from runtime.tasks.grammar import MAX_TOKENS, grammar
from runtime.tasks.prompt import completion_ids, prompt_ids
from runtime.tasks.samples import expected, render
from trainers.backends import Pair
from trainers.evaluate import Asked, read_answer, score
from trainers.generate import generate

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WRONG = 0.5
"""An answer that scores less is rejected; a call scores nothing or one."""


def own_mistakes(model: PreTrainedModel, tokenizer: Any, learnt: Sequence[Asked], count: int, seed: int) -> list[Pair]:
    """What `model` gets wrong of `count` examples of `learnt`: prompt as in training, the right answer, its own."""
    asked = random.Random(seed).sample(learnt, min(count, len(learnt)))
    if not asked:
        return []
    spec = asked[0].spec
    rendered = [render(one.spec, one.row.body, random.Random(f"{seed}:{one.row.example_id}")) for one in asked]
    said = generate(model, tokenizer, [prompt for prompt, _ in rendered], [grammar(one.spec, one.given) for one in asked], MAX_TOKENS[spec.task])
    scores = score(spec, [read_answer(one.spec, completion, one.given) for one, completion in zip(asked, said, strict=True)], [expected(one.spec, one.row.body["output"]) for one in asked]).each
    return [
        (prompt_ids(tokenizer, prompt), completion_ids(tokenizer, right), completion_ids(tokenizer, wrong))
        for (prompt, right), wrong, value in zip(rendered, said, scores, strict=True)
        if value < WRONG
    ]
