"""The `chat` task: an answer to a question, grounded in a passage where one is given."""

from __future__ import annotations

from runtime.tasks.prompt import Prompt, one_line


def render_prompt(question: str, passage: str = "") -> Prompt:
    """The prompt for `question`; `passage` is what the answer may rest on."""
    return Prompt(system=f"passage: {one_line(passage)}" if passage else "", user=one_line(question))
