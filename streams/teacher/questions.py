"""Questions on a passage, each answered by a span of it: by themselves, in conversations, and beside a wrong answer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from runtime.project import Adapter
from streams.teacher.asks import COUNT, MALFORMED, TEXT, UNGROUNDED, Ask, Assignment, Item, Row, quoted, record

CONVERSATIONS, TURNS = 4, 4
NOT_WRONG = "the wrong answer is not wrong"


class Questions(Ask):
    """Question and answer, open and closed book by turns: every second one is learned without the passage."""

    name = "questions"
    edition = 4
    fields = ("question", "answer")

    def instruction(self, assignment: Assignment) -> str:
        return f"""Write up to {COUNT} questions that a customer could ask and that this passage answers. The answer must be copied from the passage word for word.
Name the topic of each question in two or three words; questions that ask the same thing in other words share their topic.
Reply with JSON and nothing else: {{"questions": [{{"question": "...", "answer": "...", "topic": "..."}}]}}"""

    def row_schema(self, adapter: Adapter) -> dict[str, Any]:
        return record(dict.fromkeys(("question", "answer", "topic"), TEXT))

    def items(self, rows: Sequence[Row], assignment: Assignment) -> list[Item]:
        made = []
        for ordinal, row in enumerate(rows):
            given = {"question": str(row["question"])} | ({"passage": assignment.chunk} if ordinal % 2 == 0 else {})
            fault = None if quoted(str(row["answer"]), assignment.chunk) else UNGROUNDED
            made.append(Item(given, {"answer": str(row["answer"])}, str(row.get("topic") or row["question"]), fault))
        return made


class Conversations(Ask):
    """Questions that lean on what was said before: each turn is an example, with the turns before it as its history."""

    name = "conversations"
    edition = 1
    fields = ("turns",)

    def instruction(self, assignment: Assignment) -> str:
        return f"""Write up to {CONVERSATIONS} conversations of two to {TURNS} turns that a customer could have with an assistant who has this passage.
Each question after the first leans on what was said before it ("and how long does that take?"), so that it can't be understood alone.
Each answer must be copied from the passage word for word, and no two are the same.
Reply with JSON and nothing else: {{"conversations": [{{"turns": [{{"question": "...", "answer": "..."}}]}}]}}"""

    def count(self, assignment: Assignment) -> tuple[int, int]:
        return 1, CONVERSATIONS

    def row_schema(self, adapter: Adapter) -> dict[str, Any]:
        turn = record(dict.fromkeys(("question", "answer"), TEXT))
        return record({"turns": {"type": "array", "items": turn, "minItems": 2, "maxItems": TURNS}})

    def items(self, rows: Sequence[Row], assignment: Assignment) -> list[Item]:
        return [item for row in rows for item in _turns(row["turns"], assignment.chunk)]


def _turns(turns: Any, chunk: str) -> Iterator[Item]:
    """An item a turn; one that follows an answer that is no span of `chunk` would learn from it."""
    try:
        said = [{"question": str(turn["question"]), "answer": str(turn["answer"])} for turn in turns]
    except (TypeError, KeyError):
        yield Item({"question": ""}, {"answer": ""}, "", MALFORMED)
        return
    for at, turn in enumerate(said):
        given = {"question": turn["question"], "passage": chunk} | ({"history": said[:at]} if at else {})
        grounded = all(quoted(before["answer"], chunk) for before in said[: at + 1])
        yield Item(given, {"answer": turn["answer"]}, said[0]["question"], None if grounded else UNGROUNDED)


class Preferences(Ask):
    """Question, right answer, and a claim in its place that sounds right and that the passage does not support."""

    name = "preferences"
    edition = 1
    fields = ("question", "answer", "wrong")

    def instruction(self, assignment: Assignment) -> str:
        return f"""Write up to {COUNT // 2} questions that a customer could ask and that this passage answers. The answer must be copied from the passage word for word.
Beside each write a wrong answer of about the same length and style, as a careless assistant could give it: another number or name, a condition left out or
turned round, or a claim that the passage does not make. Whoever reads the passage must see that it is wrong.
Reply with JSON and nothing else: {{"preferences": [{{"question": "...", "answer": "...", "wrong": "..."}}]}}"""

    def count(self, assignment: Assignment) -> tuple[int, int]:
        return 1, COUNT // 2

    def row_schema(self, adapter: Adapter) -> dict[str, Any]:
        return record(dict.fromkeys(self.fields, TEXT))

    def items(self, rows: Sequence[Row], assignment: Assignment) -> list[Item]:
        made = []
        for row in rows:
            question, answer, wrong = (str(row[name]) for name in self.fields)
            fault = UNGROUNDED if not quoted(answer, assignment.chunk) else NOT_WRONG if not wrong.strip() or quoted(wrong, assignment.chunk) else None
            made.append(Item({"question": question, "passage": assignment.chunk}, {"answer": answer, "rejected": {"answer": wrong}}, question, fault))
        return made
