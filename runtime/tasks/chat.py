"""The `chat` task: an answer to a question, grounded in a passage where one is given."""

from __future__ import annotations

import re

from runtime.tasks.prompt import Prompt, one_line

SENTENCE = re.compile(r"(?<=[.!?])\s+")


def render_prompt(question: str, passage: str = "") -> Prompt:
    """The prompt for `question`; `passage` is what the answer may rest on."""
    return Prompt(system=f"passage: {one_line(passage)}" if passage else "", user=one_line(question))


def sentences(passage: str) -> list[str]:
    """The distinct sentences of `passage`, in order."""
    return [sentence for sentence in dict.fromkeys(SENTENCE.split(one_line(passage))) if sentence]
