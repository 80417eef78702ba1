"""Direct preference optimisation of an SFT adapter, with TRL (Rafailov et al. 2023, arXiv:2305.18290).

The reference is the SFT adapter itself, which TRL keeps as a second, frozen one. The chosen answers' own loss is added
(Pang et al. 2024, arXiv:2404.19733, section 2), since DPO alone may lower the likelihood of chosen answers too and
collapse; whether it did is for the gate to judge, on generated text.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtime.project import Dpo, Recipe
from runtime.tasks.prompt import load_tokenizer
from trainers.base_model import with_adapter
from trainers.checkpoints import is_kept, keep, saver, train_on
from trainers.conditions import ALONE, Conditions
from trainers.order import tokens_of_steps, training_order
from trainers.progress import Report, reporter
from trainers.sft import common_arguments
from trainers.together import is_member, share_of, together

if TYPE_CHECKING:
    from peft import PeftModel

BATCH = 8
CPU_ROWS = 2
"""At once on a CPU: logits of both answers under both models take most of a run's memory (docs/benchmarks.md); gradients are accumulated to the batch."""
Pair = tuple[list[int], list[int], list[int]]


def align(base: str, adapter: Path, pairs: Sequence[Pair], recipe: Recipe, dpo: Dpo, folder: Path, report: Report, conditions: Conditions = ALONE) -> PeftModel:
    """The adapter in `adapter` trained on (prompt ids, chosen ids, rejected ids); saved to `folder` as PEFT does, where it is gone on with as `sft.train` does."""
    if is_kept(folder):
        return with_adapter(base, folder)
    if conditions.processes > 1 and not is_member():
        share_of(BATCH, conditions)
        together(align, (base, adapter, pairs, recipe, dpo, folder), report, conditions)
        return with_adapter(base, folder)
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

    fitting = [pair for pair in pairs if len(pair[0]) + max(len(pair[1]), len(pair[2])) <= recipe.max_tokens]
    columns = {name: [pair[i] for pair in fitting] for i, name in enumerate(("prompt_ids", "chosen_ids", "rejected_ids"))}
    lengths = [2 * len(prompt) + len(chosen) + len(rejected) for prompt, chosen, rejected in fitting]
    order = training_order(lengths, BATCH, len(fitting), recipe.seed)
    model = with_adapter(base, adapter, is_trainable=True)
    arguments = DPOConfig(
        **common_arguments(folder, recipe, BATCH, CPU_ROWS, conditions), num_train_epochs=1, learning_rate=dpo.learning_rate, beta=dpo.beta,
        loss_type=["sigmoid", "sft"], loss_weights=[1.0, dpo.sft_weight], max_length=recipe.max_tokens,
    )  # fmt: skip
    trainer = OurTokens(model=model, args=arguments, train_dataset=Dataset.from_dict(columns), processing_class=load_tokenizer(base), callbacks=[reporter(report, tokens_of_steps(order, lengths, BATCH)), saver()])
    trained = train_on(trainer, folder)
    assert isinstance(trained, PeftModel)
    trained.delete_adapter("ref")
    keep(trained, folder)
    return trained
