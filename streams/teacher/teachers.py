"""What a teacher is to whoever asks it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from runtime.errors import InvalidInput
from streams.teacher.asks import Assignment, Row


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
    """What a teacher wrote, and what it took."""

    rows: list[Row]
    usage: Usage


class UnreadableReply(InvalidInput):
    """A reply that is not what was asked for, and what it took all the same."""

    def __init__(self, teacher: str, usage: Usage) -> None:
        super().__init__(f"teacher {teacher} gave a reply that is not the JSON that was asked for")
        self.usage = usage


class Teacher(Protocol):
    """Who writes examples; `able` names what it can be asked for."""

    name: str
    able: frozenset[str]

    async def ask(self, assignment: Assignment) -> Reply:
        """The rows that it wrote.

        Raises:
            Transient: the teacher can't be reached.
            UnreadableReply: its reply is not what was asked for.
            InvalidInput: it refuses the passage.
        """
