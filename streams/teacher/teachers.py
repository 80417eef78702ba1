"""Who writes examples: the offline teacher, or a model at any OpenAI-compatible endpoint, both behind distilabel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from runtime.errors import InvalidInput, Transient
from streams.teacher.questions import QuestionAnswer

REPLY_TOKENS = 2048
"""Enough for 16 questions with their answers."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What one or more requests used: tokens, and US dollars at the declared price."""

    input_tokens: int = 0
    output_tokens: int = 0
    usd: float = 0.0

    @property
    def tokens(self) -> int:
        """Tokens of both kinds."""
        return self.input_tokens + self.output_tokens


@dataclass(frozen=True, slots=True)
class Reply:
    """A teacher's questions on a passage, and what they took."""

    questions: list[QuestionAnswer]
    usage: Usage


class UnreadableReply(InvalidInput):
    """A reply that is not what was asked for, and what it took all the same."""

    def __init__(self, teacher: str, usage: Usage) -> None:
        super().__init__(f"teacher {teacher} gave a reply that is not the JSON that was asked for")
        self.usage = usage


class Teacher(Protocol):
    """Who writes examples."""

    name: str

    async def ask(self, passage: str, heading: str) -> Reply:
        """Questions on `passage`.

        Raises:
            Transient: the teacher can't be reached.
            UnreadableReply: its reply is not what was asked for.
            InvalidInput: it refuses the passage.
        """


class DistilabelTeacher:
    """A teacher behind distilabel: `format_input`, the LLM, `format_output`."""

    def __init__(self, name: str, task: Any) -> None:
        self.name = name
        self._task = task

    async def ask(self, passage: str, heading: str) -> Reply:
        from openai import BadRequestError, UnprocessableEntityError

        given = {"passage": passage, "heading": heading}
        try:
            reply = await self._task.llm.agenerate(self._task.format_input(given), **self._task.llm.get_generation_kwargs())
        except (BadRequestError, UnprocessableEntityError) as error:
            raise InvalidInput(f"teacher {self.name} refused this chunk: {error}") from error
        except Exception as error:
            raise Transient(f"teacher {self.name}: {type(error).__name__}: {error}") from error
        questions: list[QuestionAnswer] | None = self._task.format_output(reply["generations"][0], given)["questions"]
        counts = reply["statistics"]
        usage = Usage(sum(counts.get("input_tokens", ())), sum(counts.get("output_tokens", ())))
        if questions is None:
            raise UnreadableReply(self.name, usage)
        return Reply(questions, usage)


def offline_teacher() -> DistilabelTeacher:
    """The offline teacher."""
    from streams.teacher.offline import NAME, OfflineTeacher
    from streams.teacher.questions import PassageQuestions

    task = PassageQuestions(llm=OfflineTeacher())
    task.load()
    return DistilabelTeacher(NAME, task)


def remote_teacher(url: str, model: str, key: str, timeout_seconds: int) -> DistilabelTeacher:
    """A teacher at any OpenAI-compatible endpoint, held to JSON where the endpoint can do that."""
    from distilabel.models.llms import OpenAILLM

    from streams.teacher.questions import COUNT, PassageQuestions, reply_schema

    form = {"type": "json_schema", "json_schema": {"name": "questions", "schema": reply_schema(COUNT)}}
    # in `extra_body`, since distilabel takes flat response formats alone
    asked = {"max_new_tokens": REPLY_TOKENS, "temperature": 0.0, "extra_body": {"response_format": form}}
    task = PassageQuestions(llm=OpenAILLM(model=model, base_url=url, api_key=key or "none", timeout=timeout_seconds, generation_kwargs=asked))
    task.load()
    return DistilabelTeacher(model, task)
