"""Supervised training of LoRA adapters or of all weights, and training on raw text, by the backend that the conditions name.

Loss on completions alone, with masks from the one renderer; LoRA on all linear layers (Hu et al. 2021,
arXiv:2106.09685; all layers: Dettmers et al. 2023, arXiv:2305.14314, section 4), never on embeddings or head, which
could not be served as an adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import InvalidInput
from runtime.project import Recipe
from trainers.backends import Lesson, Tokens, backend
from trainers.base_model import give_memory_back, load_model, with_adapter
from trainers.checkpoints import is_kept
from trainers.conditions import ALONE, Conditions
from trainers.progress import Report
from trainers.together import is_shared, together

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def train(base: str, rows: Sequence[Tokens], recipe: Recipe, folder: Path, report: Report, conditions: Conditions = ALONE, start: Path | None = None) -> PeftModel:
    """An adapter for `base`, or the one in `start`, trained on (prompt ids, completion ids) rows; saved to `folder` as PEFT does.

    Goes on from the last checkpoint in `folder`, where one is; an adapter that was saved there is the answer. `report` hears how it goes.
    Rows over `recipe.max_tokens` are left out.

    Raises:
        InvalidInput: no row is short enough, or the conditions' processes can't share a step.
    """
    teach(Lesson(base, rows, recipe, folder, start), report, conditions)
    return with_adapter(base, folder)


def train_whole(base: str, rows: Sequence[Tokens], recipe: Recipe, folder: Path, report: Report, conditions: Conditions = ALONE) -> PreTrainedModel:
    """`base` with all its weights trained, in float32; else as `train`."""
    teach(Lesson(base, rows, recipe, folder, whole=True), report, conditions)
    return load_model(str(folder), is_trainable=True)


def teach(lesson: Lesson, report: Report, conditions: Conditions) -> None:
    """What `train` and `train_whole` do before they load what was made: the part of processes that share a training, of which the first alone writes."""
    if is_kept(lesson.folder):
        return
    fit = replace(lesson, rows=_learnt(lesson.rows, lesson.recipe))
    if is_shared(lesson.recipe.batch_size, conditions):
        together(teach, (fit,), report, conditions)
    else:
        backend(conditions.backend).teach(fit, report, conditions)
    give_memory_back()


def fitting(rows: Sequence[Tokens], recipe: Recipe) -> list[Tokens]:
    """Those of `rows` that are not over the recipe's `max_tokens`. Pure."""
    return [(prompt, completion) for prompt, completion in rows if len(prompt) + len(completion) <= recipe.max_tokens]


def _learnt(rows: Sequence[Tokens], recipe: Recipe) -> list[Tokens]:
    learnt = fitting(rows, recipe)
    if not learnt:
        raise InvalidInput(f"none of {len(rows)} examples has at most {recipe.max_tokens} tokens: raise max_tokens in the recipe")
    return learnt
