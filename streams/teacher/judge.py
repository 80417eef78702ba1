"""The judge: a score for each example of a passage, by the model that wrote it or by another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtime.grades import BEST, GRADE, share
from runtime.ids import canonical_json
from runtime.project import Adapter
from streams.teacher.asks import Ask, Assignment, Row, record


class Scores(Ask):
    """Scores from 1 to 5, one an example, in their order.

    Source: Zheng et al. 2023, "Judging LLM-as-a-Judge with MT-Bench and Chatbot Arena" (arXiv:2306.05685), single-answer grading.
    """

    name = "scores"
    edition = 1
    fields = ("score",)
    reply_tokens = 512

    def instruction(self, assignment: Assignment) -> str:
        shown = "\n".join(f"{number}. {canonical_json(example)}" for number, example in enumerate(assignment.examples, 1))
        return f"""Below the examples stands a passage of a company's documents. The examples were written from it, to train a small model whose task is "{assignment.adapter.task}".
Score each from 1 to {BEST}. {BEST}: right in every part, natural, and of use to customers of this company. 3: right, but awkward or of little use. 1: wrong, not
supported by the passage where it speaks of it, unreadable, or with an answer to something else. "rejected", where it is given, must be wrong.
Examples:
{shown}
Reply with JSON and nothing else, a score for each example in order: {{"scores": [{{"score": {BEST}}}]}}"""

    def row_schema(self, adapter: Adapter) -> dict[str, Any]:
        return record({"score": GRADE})

    def count(self, assignment: Assignment) -> tuple[int, int]:
        return len(assignment.examples), len(assignment.examples)


def shares(rows: Sequence[Row], count: int) -> list[float] | None:
    """The scores of `count` examples, 0 to 1; None where there are others, or so many that it is not known whose."""
    scores = [score for row in rows if (score := share(row["score"])) is not None]
    return scores if len(scores) == len(rows) == count else None
