"""Training with TRL and PEFT, of LoRA adapters or of all weights: supervised, or on raw text.

Loss on completions alone, with masks from the one renderer; LoRA on all linear layers (Hu et al. 2021,
arXiv:2106.09685; all layers: Dettmers et al. 2023, arXiv:2305.14314, section 4), never on embeddings or head, which
could not be served as an adapter.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any

from runtime.errors import InvalidInput
from runtime.project import Recipe
from runtime.tasks.prompt import load_tokenizer
from trainers.base_model import load_model, with_adapter
from trainers.checkpoints import FOLDER, is_kept, keep, saver, train_on
from trainers.conditions import ALONE, Conditions
from trainers.order import tokens_of_steps, training_order
from trainers.packing import IGNORED, packed
from trainers.precision import is_bfloat16_faster
from trainers.progress import Report, reporter
from trainers.together import is_member, share_of, together

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

WIDTH_TOKENS = 32
"""Where rows are padded, they are as wide as a multiple of this: kernels are made anew for each width."""
Tokens = tuple[list[int], list[int]]
CPU_ROWS, CPU_TOKENS = 8, 1200
"""At once on a CPU: so many rows, or so many tokens of short ones. More take memory for no speed (docs/benchmarks.md); gradients are accumulated to the recipe's batch."""


def train(base: str, rows: Sequence[Tokens], recipe: Recipe, folder: Path, report: Report, conditions: Conditions = ALONE, start: Path | None = None) -> PeftModel:
    """An adapter for `base`, or the one in `start`, trained on (prompt ids, completion ids) rows; saved to `folder` as PEFT does.

    Goes on from the last checkpoint in `folder`, where one is; an adapter that was saved there is the answer. `report` hears how it goes.
    Rows over `recipe.max_tokens` are left out.

    Raises:
        InvalidInput: no row is short enough, or the conditions' processes can't share a step.
    """
    if is_kept(folder):
        return with_adapter(base, folder)
    learnt = _learnt(rows, recipe)
    if _is_shared(recipe, conditions):
        together(partial(train, start=start), (base, rows, recipe, folder), report, conditions)
        return with_adapter(base, folder)
    from peft import PeftModel

    model = with_adapter(base, start, is_trainable=True) if start else load_model(base)
    trained = _fit(model, None if start else lora_of(recipe), load_tokenizer(base), learnt, recipe, folder, report, conditions)
    assert isinstance(trained, PeftModel)
    keep(trained, folder)
    return trained


def train_whole(base: str, rows: Sequence[Tokens], recipe: Recipe, folder: Path, report: Report, conditions: Conditions = ALONE) -> PreTrainedModel:
    """`base` with all its weights trained, in float32; else as `train`."""
    if is_kept(folder):
        return load_model(str(folder), is_trainable=True)
    learnt = _learnt(rows, recipe)
    if _is_shared(recipe, conditions):
        together(train_whole, (base, rows, recipe, folder), report, conditions)
        return load_model(str(folder), is_trainable=True)
    from transformers import PreTrainedModel

    trained = _fit(load_model(base, is_trainable=True), None, load_tokenizer(base), learnt, recipe, folder, report, conditions)
    assert isinstance(trained, PreTrainedModel)
    keep(trained, folder)
    return trained


def _learnt(rows: Sequence[Tokens], recipe: Recipe) -> list[Tokens]:
    learnt = fitting(rows, recipe)
    if not learnt:
        raise InvalidInput(f"none of {len(rows)} examples has at most {recipe.max_tokens} tokens: raise max_tokens in the recipe")
    return learnt


def _is_shared(recipe: Recipe, conditions: Conditions) -> bool:
    """Whether other processes are to be started that carry the training out."""
    share_of(recipe.batch_size, conditions)
    return conditions.processes > 1 and not is_member()


def _fit(model: PeftModel | PreTrainedModel, lora: LoraConfig | None, tokenizer: Any, learnt: Sequence[Tokens], recipe: Recipe, folder: Path, report: Report, conditions: Conditions) -> Any:
    """The model as TRL has trained it: what is trainable of it, or with `lora` a new adapter."""
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from trl import SFTConfig, SFTTrainer

    class CompletionLoss(SFTTrainer):
        """Cross entropy as the model computes it, with logits for completion tokens alone: prompts are twenty times as long."""

        def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
            return order

        def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None) -> Any:
            inputs = dict(inputs)
            targets = inputs.pop("labels")[:, 1:]
            places = (targets != IGNORED).any(dim=0).nonzero()[:, 0]  # of all rows: what one of them does not learn there is ignored
            logits = model(**inputs, use_cache=False, logits_to_keep=places).logits.float()
            loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[:, places].flatten(), ignore_index=IGNORED, reduction="sum")
            # num_items_in_batch is of all processes, whose gradients DDP averages
            return loss * self.accelerator.num_processes / num_items_in_batch if num_items_in_batch is not None else loss / (targets != IGNORED).sum()

    columns = {"input_ids": [p + c for p, c in learnt], "labels": [[IGNORED] * len(p) + c for p, c in learnt]}
    steps = recipe.steps_of(len(learnt))
    lengths = [len(row) for row in columns["input_ids"]]
    order = training_order(lengths, recipe.batch_size, steps * recipe.batch_size, recipe.seed)
    arguments = SFTConfig(
        **common_arguments(folder, recipe, recipe.batch_size, rows_on_a_cpu(mean(lengths)), conditions), max_steps=steps, learning_rate=recipe.learning_rate, max_length=recipe.max_tokens,
        packing=False, pad_to_multiple_of=WIDTH_TOKENS,
    )  # fmt: skip
    with packed(model.get_base_model() if isinstance(model, PeftModel) else model) as collate:
        trainer = CompletionLoss(
            model=model, args=arguments, data_collator=collate, train_dataset=Dataset.from_dict(columns), processing_class=tokenizer, peft_config=lora,
            callbacks=[reporter(report, tokens_of_steps(order, lengths, recipe.batch_size)), saver()],
        )  # fmt: skip
        return train_on(trainer, folder)


def fitting(rows: Sequence[Tokens], recipe: Recipe) -> list[Tokens]:
    """Those of `rows` that are not over the recipe's `max_tokens`. Pure."""
    return [(prompt, completion) for prompt, completion in rows if len(prompt) + len(completion) <= recipe.max_tokens]


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
        "output_dir": str(folder / FOLDER), "save_total_limit": 1, "lr_scheduler_type": "cosine", "warmup_steps": 10, "weight_decay": 0.0, "logging_steps": 10, "save_strategy": "no",
        "report_to": list(conditions.report_to) or "none", "run_name": f"{conditions.name} {folder.name}".strip(), "seed": recipe.seed, "data_seed": recipe.seed, "bf16": is_bfloat16_faster(), "use_cpu": not torch.cuda.is_available(), "gradient_checkpointing": False,
        "disable_tqdm": True, "dataloader_num_workers": 0,
    }  # fmt: skip
