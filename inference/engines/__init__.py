"""Engines behind one port."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

Hear = Callable[[str], None]
"""Told each piece of a text as it comes."""


@dataclass(frozen=True, slots=True)
class Generation:
    """What an engine made of a prompt: the text, its length in tokens, the mean probability of its tokens."""

    text: str
    token_count: int
    confidence: float


class Engine(Protocol):
    """One base model with named adapters. A name stands for one set of weights, for ever."""

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    @property
    def healthy(self) -> bool:
        """False when its process died: only a fresh start helps."""

    def has_room_beside(self) -> bool:
        """Whether the machine can carry a second engine like this one."""

    async def add(self, name: str, folder: Path) -> None:
        """Loads the adapter in `folder` as `name`.

        Raises:
            InvalidInput: the engine can't.
            Transient: the engine died, or can't be reached.
        """

    async def remove(self, name: str) -> None:
        """Unloads `name`, and returns when the engine no longer lists it."""

    async def pin(self, name: str) -> bool:
        """Keeps `name` in memory, and in a place of every batch, until it is removed, and says whether it is kept: the engine may have no room for that, or know no such thing. Asked again, it does nothing."""

    def expect(self, name: str) -> None:
        """A request for `name` is on its way: one that made room for others in memory is read anew meanwhile, where the engine can."""

    def names(self) -> frozenset[str]:
        """The loaded adapters."""

    @property
    def in_flight(self) -> int:
        """Requests that the engine is working on or has waiting."""

    async def generate(self, prompt: Sequence[int], adapter: str | None, grammar: str | None, max_tokens: int, hear: Hear | None = None, priority: int = 0) -> Generation:
        """Greedy completion of the token ids `prompt`; cancelled, it is cancelled in the engine. Adapters take turns by what their requests cost: one's flood does not hold up another,
        nor its own requests of higher `priority`, and each step of that halves what they cost.

        Raises:
            InvalidInput: the prompt is too long, the grammar none, or the adapter not loaded.
            Transient: the engine fails.
        """

    async def probe(self, prompt: Sequence[int], adapter: str | None) -> dict[int, float]:
        """Log probabilities of the likeliest first tokens."""
