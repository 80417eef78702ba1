"""Unsloth: TRL's trainers over models whose kernels it has rewritten (github.com/unslothai/unsloth), on NVIDIA GPUs, and on a CPU as a fallback of its own.

`import unsloth` comes before transformers and TRL, which it changes: no module of ours that this one needs imports them at its top.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.project import Recipe
from runtime.tasks.prompt import load_tokenizer
from trainers.backends import Lesson, Preferences
from trainers.backends.trl import Curriculum, prefer
from trainers.checkpoints import WEIGHTS, keep, train_on
from trainers.conditions import Conditions
from trainers.progress import Report

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


class Unsloth:
    """TRL's own loss and collator: Unsloth's kernels need them, and lay examples end to end where they can."""

    def teach(self, lesson: Lesson, report: Report, conditions: Conditions) -> None:
        """As the port says."""
        model = _student(lesson.base, lesson.recipe, lesson.start, whole=lesson.whole)
        from datasets import Dataset
        from trl import SFTConfig, SFTTrainer

        class InOrder(SFTTrainer):
            def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
                return curriculum.order

        curriculum = Curriculum(lesson)
        columns = {"input_ids": [p + c for p, c in lesson.rows], "completion_mask": [[0] * len(p) + [1] * len(c) for p, c in lesson.rows]}
        arguments = SFTConfig(**curriculum.arguments(lesson, conditions), completion_only_loss=True)
        trainer = InOrder(model=model, args=arguments, train_dataset=Dataset.from_dict(columns), processing_class=load_tokenizer(lesson.base), callbacks=curriculum.callbacks(report, conditions))
        keep(train_on(trainer, lesson.folder), lesson.folder)

    def align(self, preferences: Preferences, report: Report, conditions: Conditions) -> None:
        """As the port says."""
        model = _student(preferences.base, preferences.recipe, preferences.adapter)
        prefer(model, preferences, report, conditions)


BACKEND = Unsloth()


def _student(base: str, recipe: Recipe, start: Path | None, *, whole: bool = False) -> PeftModel | PreTrainedModel:
    """The base under a new adapter or the one in `start`; or all of it to train. Never in 4 bits, which serving would not have."""
    from unsloth import FastLanguageModel  # isort: skip
    import torch

    checkpointing = "unsloth" if torch.cuda.is_available() else False
    model, _ = FastLanguageModel.from_pretrained(
        base, max_seq_length=recipe.max_tokens, dtype=None if torch.cuda.is_available() else torch.float32, load_in_4bit=False, full_finetuning=whole, use_gradient_checkpointing=checkpointing,
    )  # fmt: skip
    if whole:
        return model
    adapted = FastLanguageModel.get_peft_model(
        model, r=recipe.rank, lora_alpha=recipe.alpha, lora_dropout=0.0, bias="none", target_modules="all-linear", use_gradient_checkpointing=checkpointing, random_state=recipe.seed, max_seq_length=recipe.max_tokens,
    )  # fmt: skip
    if start:
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        set_peft_model_state_dict(adapted, load_file(start / WEIGHTS))
    return adapted
