"""The task that asks a teacher for questions on a passage, each answered by a span of it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from distilabel.steps.tasks import Task
from distilabel.typing import ChatType, StepColumns
from pydantic import Field

PROMPT_VERSION = "questions-4"
COUNT = 16
MAX_CHARACTERS = 400
GAP = re.compile(r"[\s,]*")
PASSAGE = re.compile(r"<passage>\n(.*)\n</passage>", re.DOTALL)
INSTRUCTION = """Write up to {count} questions that a customer could ask and that this passage answers. The answer must be copied from the passage word for word.
Name the topic of each question in two or three words; questions that ask the same thing in other words share their topic.
Reply with JSON and nothing else: {{"questions": [{{"question": "...", "answer": "...", "topic": "..."}}]}}

Heading: {heading}
<passage>
{passage}
</passage>"""


def reply_schema(count: int) -> dict[str, Any]:
    """JSON Schema of a reply with at most `count` questions, for endpoints that decode under one."""
    text = {"type": "string", "minLength": 1, "maxLength": MAX_CHARACTERS}
    fields = ("question", "answer", "topic")
    question = {"type": "object", "properties": dict.fromkeys(fields, text), "required": list(fields), "additionalProperties": False}
    questions = {"type": "array", "items": question, "minItems": 1, "maxItems": count}
    return {"type": "object", "properties": {"questions": questions}, "required": ["questions"], "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class QuestionAnswer:
    """A question with the words of the passage that answer it; `topic` is the same for paraphrases."""

    question: str
    answer: str
    topic: str


class PassageQuestions(Task):
    """distilabel task: `passage`, `heading` in, `questions` out; None where the reply can't be read."""

    count: int = Field(COUNT, ge=1)

    @property
    def inputs(self) -> StepColumns:
        return ["passage", "heading"]

    @property
    def outputs(self) -> StepColumns:
        return ["questions"]

    def format_input(self, input: dict[str, Any]) -> ChatType:  # noqa: A002 - distilabel's name
        return [{"role": "user", "content": INSTRUCTION.format(count=self.count, heading=input["heading"], passage=input["passage"])}]

    def format_output(self, output: str | None, input: dict[str, Any] | None = None) -> dict[str, Any]:  # noqa: A002 - distilabel's name
        return {"questions": read_reply(output)}


def read_reply(reply: str | None) -> list[QuestionAnswer] | None:
    """The pairs of a teacher's reply, those before the cut where it ends too early; None when it is not what was asked for."""
    text = reply or ""
    at, pairs = text.find("[") + 1, []
    if not at:
        return None
    while (start := GAP.match(text, at).end()) < len(text) and text[start] == "{":  # type: ignore[union-attr]
        try:
            row, at = json.JSONDecoder().raw_decode(text, start)
            pairs.append(QuestionAnswer(str(row["question"]), str(row["answer"]), str(row.get("topic") or row["question"])))
        except KeyError:
            return None
        except ValueError:
            break
    return pairs if pairs or text[start : start + 1] == "]" else None
