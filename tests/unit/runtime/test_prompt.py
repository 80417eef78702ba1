"""What a chat template makes of a prompt, whatever its texts say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.tasks.prompt import Prompt, completion_ids, load_tokenizer, prompt_ids

TOKENIZER = load_tokenizer(str(Path(__file__).parents[3] / "models/base"))
SPECIAL = {number: str(token) for number, token in TOKENIZER.added_tokens_decoder.items() if token.special}
texts = st.lists(st.one_of(st.sampled_from([*SPECIAL.values(), "<|", "|>", "end", " "]), st.text(max_size=8))).map("".join)


def controls(ids: list[int]) -> list[str]:
    return [SPECIAL[one] for one in ids if one in SPECIAL]


def test_there_are_control_tokens() -> None:
    assert {"<|end|>", "<|system|>", "<|assistant|>"} <= set(SPECIAL.values())


@settings(deadline=None)
@given(texts, texts, texts, texts)
def test_no_text_makes_a_control_token(system: str, user: str, asked: str, said: str) -> None:
    named = controls(prompt_ids(TOKENIZER, Prompt("x", "x", (("x", "x"),))))
    assert controls(prompt_ids(TOKENIZER, Prompt(f"x{system}", user, ((asked, said),)))) == named
    assert controls(completion_ids(TOKENIZER, said)) == ["<|end|>"]


@pytest.mark.parametrize("text", ["a <| b |> c", "<end>", "reset my password"])
def test_other_texts_stay_as_they_are(text: str) -> None:
    assert text in TOKENIZER.decode(prompt_ids(TOKENIZER, Prompt("", text)))
