"""Direct preference optimisation of an SFT adapter (Rafailov et al. 2023, arXiv:2305.18290), by the backend that the conditions name.

The reference is the SFT adapter itself. The chosen answers' own loss is added (Pang et al. 2024, arXiv:2404.19733,
section 2), since DPO alone may lower the likelihood of chosen answers too and collapse; whether it did is for the gate to
judge, on generated text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from runtime.project import Dpo, Recipe
from trainers.backends import Pair, Preferences, backend
from trainers.backends.trl import PAIRS_A_STEP
from trainers.base_model import give_memory_back, with_adapter
from trainers.checkpoints import is_kept
from trainers.conditions import ALONE, Conditions
from trainers.progress import Report
from trainers.together import is_shared, together

if TYPE_CHECKING:
    from peft import PeftModel


def align(base: str, adapter: Path, pairs: Sequence[Pair], recipe: Recipe, dpo: Dpo, folder: Path, report: Report, conditions: Conditions = ALONE) -> PeftModel:
    """The adapter in `adapter` trained on (prompt ids, chosen ids, rejected ids); saved to `folder` as PEFT does, where it is gone on with as `sft.train` does."""
    fitting = [pair for pair in pairs if len(pair[0]) + max(len(pair[1]), len(pair[2])) <= recipe.max_tokens]
    prefer(Preferences(base, adapter, fitting, recipe, dpo, folder), report, conditions)
    return with_adapter(base, folder)


def prefer(preferences: Preferences, report: Report, conditions: Conditions) -> None:
    """What `align` does before it loads what was made, as `sft.teach`."""
    if is_kept(preferences.folder):
        return
    if is_shared(PAIRS_A_STEP, conditions):
        together(prefer, (preferences,), report, conditions)
    else:
        backend(conditions.backend).align(preferences, report, conditions)
    give_memory_back()
