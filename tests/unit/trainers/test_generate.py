"""How prompts are put together to be answered at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from runtime.tasks.prompt import Prompt, load_tokenizer
from trainers.base_model import load_model
from trainers.generate import BATCH_ROWS, BATCH_TOKENS, batched, generate

BASE = str(Path(__file__).parents[3] / "models/base")


@given(st.lists(st.integers(1, 2 * BATCH_TOKENS), max_size=300).map(sorted))
def test_batches_cover_all_in_order_and_keep_the_bounds(lengths: list[int]) -> None:
    batches = list(batched(lengths))
    assert [place for batch in batches for place in batch] == list(range(len(lengths)))
    assert all(len(batch) == 1 or (len(batch) <= BATCH_ROWS and len(batch) * lengths[batch[-1]] <= BATCH_TOKENS) for batch in batches)
    assert all(batches)


@pytest.mark.parametrize("room", [4, 1], ids=["for four", "for one"])
def test_where_memory_is_short_answers_come_by_halves_and_are_the_same(room: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load_model(BASE), load_tokenizer(BASE)
    prompts = [Prompt("", "word " * n) for n in range(1, 12)]
    grammars = ["root ::= " + " | ".join(f'"{letter}{n}"' for letter in "ab") if n % 3 else None for n in range(11)]
    plenty = generate(model, tokenizer, prompts, grammars, 4)
    answered: list[int] = []
    answer = model.generate

    def needy(**given: Any) -> Any:
        torch.empty(len(given["input_ids"]) // (room + 1) << 60, dtype=torch.uint8)  # exbibytes, or nothing
        answered.append(len(given["input_ids"]))
        return answer(**given)

    monkeypatch.setattr(model, "generate", needy)
    assert generate(model, tokenizer, prompts, grammars, 4) == plenty
    assert sum(answered) == len(prompts)
    assert max(answered) <= room


def test_another_error_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    model, tokenizer = load_model(BASE), load_tokenizer(BASE)

    def broken(**given: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(model, "generate", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        generate(model, tokenizer, [Prompt("", "a"), Prompt("", "b")], [None, None], 4)


def test_drawn_answers_keep_to_the_grammar_and_follow_the_generator() -> None:
    model, tokenizer = load_model(BASE), load_tokenizer(BASE)
    prompts = [Prompt("", "good morning")] * 24
    grammars: list[str | None] = ['root ::= "north" | "east" | "south" | "west"'] * 24

    def drawn(seed: int) -> list[str]:
        torch.manual_seed(seed)
        return generate(model, tokenizer, prompts, grammars, 6, temperature=3.0)

    assert {"north", "east", "south", "west"} >= set(drawn(1)) > {generate(model, tokenizer, prompts[:1], grammars[:1], 6)[0]}
    assert drawn(1) == drawn(1) != drawn(2)
