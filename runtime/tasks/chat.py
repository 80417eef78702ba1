"""The `chat` task: an answer to a question, grounded in a passage where one is given."""

from __future__ import annotations

import re
from typing import Any

from runtime.tasks.prompt import Prompt, one_line

SENTENCE = re.compile(r"(?<=[.!?])\s+")


def render_prompt(question: str, passage: str = "", history: Any = ()) -> Prompt:
    """The prompt for `question`; `passage` is what the answer may rest on, `history` the turns before: a list of {"question", "answer"}.

    Raises:
        ValueError: the history is something else.
    """
    try:
        turns = tuple((one_line(turn["question"]), one_line(turn["answer"])) for turn in history)
    except (TypeError, KeyError, AttributeError):
        raise ValueError('the history is no list of {"question", "answer"}') from None
    return Prompt(system=f"passage: {one_line(passage)}" if passage else "", user=one_line(question), history=turns)


def sentences(passage: str) -> list[str]:
    """The distinct sentences of `passage`, in order."""
    return [sentence for sentence in dict.fromkeys(SENTENCE.split(one_line(passage))) if sentence]
