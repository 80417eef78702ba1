"""Who carries a training out, behind one small port: TRL, Unsloth or Axolotl. What is learned, in which order and at which rates, is the recipe's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

from runtime.project import Dpo, Recipe
from trainers.conditions import Conditions
from trainers.progress import Report

Tokens = tuple[list[int], list[int]]
"""Prompt and completion ids."""
Pair = tuple[list[int], list[int], list[int]]
"""Prompt, chosen and rejected ids."""


@dataclass(frozen=True, slots=True)
class Lesson:
    """Rows to learn, none over the recipe's `max_tokens`: by a new adapter of `base`, by the one in `start`, or by all weights where it is `whole`."""

    base: str
    rows: Sequence[Tokens]
    recipe: Recipe
    folder: Path
    start: Path | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Preferences:
    """Pairs that the adapter in `adapter` is to prefer the chosen of, none over the recipe's `max_tokens`."""

    base: str
    adapter: Path
    pairs: Sequence[Pair]
    recipe: Recipe
    dpo: Dpo
    folder: Path


class Backend(Protocol):
    """What it makes is in the folder at the end, as `checkpoints.keep` leaves it. It goes on from the last checkpoint there, and reports how it goes."""

    def teach(self, lesson: Lesson, report: Report, conditions: Conditions) -> None:
        """Cross entropy of the completions."""

    def align(self, preferences: Preferences, report: Report, conditions: Conditions) -> None:
        """Direct preference optimisation, and the chosen answers' own loss."""


def backend(name: str) -> Backend:
    """The one of that name in `conditions.BACKENDS`."""
    made: Backend = import_module(f"trainers.backends.{name}").BACKEND
    return made
