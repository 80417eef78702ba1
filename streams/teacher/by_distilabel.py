"""Who writes examples: the offline teacher, or a model at any OpenAI-compatible endpoint, both behind distilabel.

Imported by those who ask alone: distilabel brings pandas and datasets with it, three seconds and 150 MB.
"""

from __future__ import annotations

from typing import Any

from distilabel.steps.tasks import Task
from distilabel.typing import ChatType, StepColumns

from runtime.errors import InvalidInput, Transient
from streams.teacher.asks import Assignment, Row, read_rows
from streams.teacher.judge import Scores
from streams.teacher.kinds import KINDS
from streams.teacher.teachers import Reply, UnreadableReply, Usage


class Written(Task):
    """distilabel task: an `assignment` in, `rows` out; None where the reply can't be read."""

    @property
    def inputs(self) -> StepColumns:
        return ["assignment"]

    @property
    def outputs(self) -> StepColumns:
        return ["rows"]

    def format_input(self, input: dict[str, Any]) -> ChatType:  # noqa: A002 - distilabel's name
        return [{"role": "user", "content": input["assignment"].prompt}]

    def format_output(self, output: str | None, input: dict[str, Any] | None = None) -> dict[str, Any]:  # noqa: A002 - distilabel's name
        return {"rows": read_rows(output, input["assignment"].ask.fields if input else ())}


class DistilabelTeacher:
    """A teacher behind distilabel: `format_input`, the LLM, `format_output`; held to JSON where the endpoint can do that."""

    def __init__(self, name: str, llm: Any, able: frozenset[str]) -> None:
        self.name, self.able = name, able
        self._task = Written(llm=llm)
        self._task.load()

    async def ask(self, assignment: Assignment) -> Reply:
        from openai import BadRequestError, UnprocessableEntityError

        given = {"assignment": assignment}
        form = {"type": "json_schema", "json_schema": {"name": assignment.ask.name, "schema": assignment.reply_schema}}
        try:
            reply = await self._task.llm.agenerate(
                self._task.format_input(given), max_new_tokens=assignment.ask.reply_tokens, temperature=0.0, extra_body={"response_format": form}
            )  # in `extra_body`, since distilabel takes flat response formats alone
        except (BadRequestError, UnprocessableEntityError) as error:
            raise InvalidInput(f"teacher {self.name} refused this passage: {error}") from error
        except Exception as error:
            raise Transient(f"teacher {self.name}: {type(error).__name__}: {error}") from error
        rows: list[Row] | None = self._task.format_output(reply["generations"][0], given)["rows"]
        counts = reply["statistics"]
        usage = Usage(sum(counts.get("input_tokens", ())), sum(counts.get("output_tokens", ())))
        if rows is None:
            raise UnreadableReply(self.name, usage)
        return Reply(rows, usage)


def offline_teacher() -> DistilabelTeacher:
    """The offline teacher."""
    from streams.teacher.offline import ABLE, NAME, OfflineTeacher

    return DistilabelTeacher(NAME, OfflineTeacher(), ABLE)


def remote_teacher(url: str, model: str, key: str, timeout_seconds: int) -> DistilabelTeacher:
    """A teacher at any OpenAI-compatible endpoint, which is its own judge."""
    from distilabel.models.llms import OpenAILLM

    able = frozenset({kind.name for kinds in KINDS.values() for kind in kinds} | {Scores.name})
    return DistilabelTeacher(model, OpenAILLM(model=model, base_url=url, api_key=key or "none", timeout=timeout_seconds), able)
