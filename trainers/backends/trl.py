"""TRL and PEFT, with examples end to end in one row where the model's losses stay the same, and logits for completions alone."""

from __future__ import annotations

from statistics import mean
from typing import TYPE_CHECKING, Any

from runtime.project import Recipe
from runtime.tasks.prompt import load_tokenizer
from trainers.backends import Lesson, Preferences
from trainers.base_model import fused, load_model, with_adapter
from trainers.checkpoints import FOLDER, keep, saver, train_on
from trainers.conditions import Conditions
from trainers.order import tokens_of_steps, training_order
from trainers.packing import IGNORED, MULTIPLE, packed
from trainers.precision import uses_bfloat16
from trainers.progress import Report, reporter
from trainers.together import share_of

if TYPE_CHECKING:
    from pathlib import Path

    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

CPU_ROWS, CPU_TOKENS = 8, 1200
"""At once on a CPU: so many rows, or so many tokens of short ones. More take memory for no speed (docs/benchmarks.md); gradients are accumulated to the recipe's batch."""
PAIRS_A_STEP, CPU_PAIRS = 8, 2
"""Pairs of a step, and at once on a CPU: logits of both answers under both models take most of a run's memory (docs/benchmarks.md)."""
WARM_UP_STEPS, LOGGED_STEPS = 10, 10


class Trl:
    """The default."""

    def teach(self, lesson: Lesson, report: Report, conditions: Conditions) -> None:
        """As the port says."""
        import torch
        from datasets import Dataset
        from peft import PeftModel
        from trl import SFTConfig, SFTTrainer

        class CompletionLoss(SFTTrainer):
            """Cross entropy as the model computes it, with logits for completion tokens alone: prompts are twenty times as long."""

            def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
                return curriculum.order

            def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
                inputs = dict(inputs)
                targets = inputs.pop("labels")[:, 1:]
                places = (targets != IGNORED).any(dim=0).nonzero()[:, 0]  # of all rows: what one of them does not learn there is ignored
                logits = model(**inputs, use_cache=False, logits_to_keep=places).logits.float()
                loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[:, places].flatten(), ignore_index=IGNORED, reduction="sum")
                # num_items_in_batch is of all processes, whose gradients DDP averages
                return loss * self.accelerator.num_processes / num_items_in_batch if num_items_in_batch is not None else loss / (targets != IGNORED).sum()

        model = _student(lesson)
        curriculum = Curriculum(lesson)
        columns = {"input_ids": [p + c for p, c in lesson.rows], "labels": [[IGNORED] * len(p) + c for p, c in lesson.rows]}
        arguments = SFTConfig(**curriculum.arguments(lesson, conditions), packing=False, pad_to_multiple_of=MULTIPLE)
        with packed(model.get_base_model() if isinstance(model, PeftModel) else model) as collate:
            trainer = CompletionLoss(
                model=model, args=arguments, data_collator=collate, train_dataset=Dataset.from_dict(columns), processing_class=load_tokenizer(lesson.base),
                peft_config=None if lesson.whole or lesson.start else fused(lora_of(lesson.recipe)), callbacks=curriculum.callbacks(report, conditions),
            )  # fmt: skip
            trained = train_on(trainer, lesson.folder)
            keep(trained, lesson.folder, trainer.accelerator.get_state_dict(trained) if trainer.is_fsdp_enabled else None)

    def align(self, preferences: Preferences, report: Report, conditions: Conditions) -> None:
        """As the port says; the reference is the SFT adapter itself, which TRL keeps as a second, frozen one."""
        prefer(with_adapter(preferences.base, preferences.adapter, is_trainable=True), preferences, report, conditions)


BACKEND = Trl()


def _student(lesson: Lesson) -> PeftModel | PreTrainedModel:
    if lesson.start:
        return with_adapter(lesson.base, lesson.start, is_trainable=True)
    return load_model(lesson.base, is_trainable=lesson.whole)


class Curriculum:
    """Which rows each step of a lesson has, and what every trainer of TRL's is told of it."""

    def __init__(self, lesson: Lesson) -> None:
        recipe = lesson.recipe
        self._lengths = [len(prompt) + len(completion) for prompt, completion in lesson.rows]
        self._steps, self._batch = recipe.steps_of(len(lesson.rows)), recipe.batch_size
        self.order = training_order(self._lengths, self._batch, self._steps * self._batch, recipe.seed)

    def arguments(self, lesson: Lesson, conditions: Conditions) -> dict[str, Any]:
        """For an SFTConfig."""
        recipe = lesson.recipe
        common = common_arguments(lesson.folder, recipe, self._batch, rows_on_a_cpu(mean(self._lengths)), conditions)
        if lesson.whole and conditions.sharded:
            common |= {"fsdp": True, "fsdp_config": {"version": 2, "auto_wrap_policy": "TRANSFORMER_BASED_WRAP"}}  # a unit a layer (Zhao et al. 2023, arXiv:2304.11277)
        return common | {"max_steps": self._steps, "learning_rate": recipe.learning_rate, "max_length": recipe.max_tokens}

    def callbacks(self, report: Report, conditions: Conditions) -> list[Any]:
        """That report, and have checkpoints written."""
        return [reporter(report, self.tokens()), saver(conditions.checkpoint_seconds)]

    def tokens(self) -> list[int]:
        """Of each step."""
        return tokens_of_steps(self.order, self._lengths, self._batch)


def prefer(model: PeftModel, preferences: Preferences, report: Report, conditions: Conditions) -> None:
    """Trains `model`, which has the SFT adapter, and keeps it."""
    from datasets import Dataset
    from peft import PeftModel
    from trl import DPOConfig, DPOTrainer

    class OurTokens(DPOTrainer):
        """Takes token ids as the one renderer made them."""

        def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
            return dataset

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return order

        def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
            """transformers loads the adapters of sub-folders, which is the reference alone, and leaves the trained one as it began."""
            self.model.load_adapter(resume_from_checkpoint, "default", is_trainable=True)

    recipe, dpo, folder = preferences.recipe, preferences.dpo, preferences.folder
    columns = {name: [pair[i] for pair in preferences.pairs] for i, name in enumerate(("prompt_ids", "chosen_ids", "rejected_ids"))}
    lengths = [2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in preferences.pairs]
    order = training_order(lengths, PAIRS_A_STEP, len(lengths), recipe.seed)
    arguments = DPOConfig(
        **common_arguments(folder, recipe, PAIRS_A_STEP, CPU_PAIRS, conditions), num_train_epochs=1, learning_rate=dpo.learning_rate, beta=dpo.beta,
        loss_type=["sigmoid", "sft"], loss_weights=[1.0, dpo.sft_weight], ld_alpha=dpo.ld_alpha, max_length=recipe.max_tokens,
    )  # fmt: skip
    trainer = OurTokens(
        model=model, args=arguments, train_dataset=Dataset.from_dict(columns), processing_class=load_tokenizer(preferences.base),
        callbacks=[reporter(report, tokens_of_steps(order, lengths, PAIRS_A_STEP)), saver(conditions.checkpoint_seconds)],
    )  # fmt: skip
    trained = train_on(trainer, folder)
    assert isinstance(trained, PeftModel)
    trained.delete_adapter("ref")
    keep(trained, folder)


def lora_of(recipe: Recipe) -> LoraConfig:
    """The adapter that the recipe declares, for PEFT."""
    from peft import LoraConfig

    return LoraConfig(r=recipe.rank, lora_alpha=recipe.alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM")


def rows_on_a_cpu(tokens: float) -> int:
    """How many rows of `tokens` tokens each a CPU has at once at most. Pure."""
    return max(CPU_ROWS, int(CPU_TOKENS / tokens))


def rows_at_once(batch: int, most: int, halvings: int) -> int:
    """How many rows of a step of `batch` are in memory at once: at most `most`, so often halved; a divisor of `batch`, to which gradients are accumulated. Pure."""
    return max(n for n in range(1, max(1, min(batch, most) >> halvings) + 1) if batch % n == 0)


def common_arguments(folder: Path, recipe: Recipe, batch: int, cpu_rows: int, conditions: Conditions) -> dict[str, Any]:
    """What every trainer of ours is told: `batch` rows a step over all processes, on a CPU at most `cpu_rows` of them at once in each. Names the kind of training by its folder."""
    import torch

    share = share_of(batch, conditions)
    at_once = rows_at_once(share, share if torch.cuda.is_available() else cpu_rows, conditions.halvings)
    return {
        "per_device_train_batch_size": at_once, "gradient_accumulation_steps": share // at_once,
        "output_dir": str(folder / FOLDER), "save_total_limit": 1, "lr_scheduler_type": "cosine", "warmup_steps": WARM_UP_STEPS, "weight_decay": 0.0, "logging_steps": LOGGED_STEPS, "save_strategy": "no",
        "report_to": list(conditions.report_to) or "none", "run_name": f"{conditions.name} {folder.name}".strip(), "seed": recipe.seed, "data_seed": recipe.seed, "bf16": uses_bfloat16(folder / FOLDER), "use_cpu": not torch.cuda.is_available(), "gradient_checkpointing": False,
        "disable_tqdm": True, "dataloader_num_workers": 0,
    }  # fmt: skip
