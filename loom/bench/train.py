"""`loom bench train`: our SFT beside TRL's with its own defaults, on the same examples to the same held-out loss.

Both train a LoRA adapter of the same shape with the same effective batch; each at the rate that serves it best, of the same ones, and TRL for as many
steps as serve it best: a small model soon learns a few thousand rows by heart, and its held-out loss rises again. Losses are means over seeds: one seed's
luck is as large as what is to be told.
"""

from __future__ import annotations

import json
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from loom.bench.compare import Row
from loom.frames import Frames
from loom.labels import labels_of
from runtime.encoder import minilm
from runtime.errors import SettingsError
from runtime.project import Adapter, Recipe
from runtime.tasks.prompt import load_tokenizer
from runtime.tasks.shortlist import Shortlist
from schemas.events import Label, Split
from streams.format import group_of, split_of
from trainers import fork, sft
from trainers.backends import Tokens
from trainers.backends.trl import lora_of
from trainers.snapshot import Row as Example

if TYPE_CHECKING:
    from peft import PeftModel

RATES = (1e-3, 2e-3, 4e-3, 8e-3)
GOAL = 3.0
SEEDS, QUICK_SEEDS = 3, 1
STEPS, QUICK_STEPS = 150, 40
SHORT = 0.4
"""The share of the steps that a rate is tried for, and that ours begins with."""
MORE = 1.2
"""So many times the steps, where ours have not reached the loss of TRL's."""
MOST = 3
"""So many times TRL's steps, and ours have not reached its loss: 0 trainings an hour."""
MAX_HELD_OUT = 200


@dataclass(frozen=True, slots=True)
class Trained:
    """The wall-clock seconds of a training, loading and saving included, and the held-out loss in nats a token."""

    seconds: float
    loss: float


Side = Callable[[float, int, int], Trained]
"""A training at a rate, of so many steps, with a seed."""


def train_rows(source: Path, adapter: Adapter, name: str, base: str, quick: bool) -> list[Row]:
    """Trains on the labels of `source`, frames (.toml) or JSON lines as `loom label` takes them.

    Raises:
        SettingsError: there is nothing to learn, or nothing to score.
    """
    steps, seeds = (QUICK_STEPS, QUICK_SEEDS) if quick else (STEPS, SEEDS)
    learn, held_out = tokens_of(source, adapter, name, base)
    ours: Side = partial(_trained, partial(_ours, base, learn, adapter.recipe), held_out)
    theirs: Side = partial(_trained, partial(_trl, base, learn, adapter.recipe), held_out)
    their_rate, their_steps = _best(theirs, steps)
    our_rate, _ = _best_rate(ours, round(SHORT * steps))
    baseline = [theirs(their_rate, their_steps, seed) for seed in range(seeds)]
    mine, our_steps = to_loss(mean_loss(baseline), lambda steps: [ours(our_rate, steps, seed) for seed in range(seeds)], round(SHORT * steps), MOST * their_steps)
    reached = mean_loss(mine) <= mean_loss(baseline)
    return [
        Row.of("trainings an hour to the same held-out loss", "1/h", [3600 / one.seconds if reached else 0.0 for one in mine], [3600 / one.seconds for one in baseline], GOAL),
        Row.of("steps a second", "1/s", [our_steps / one.seconds for one in mine], [their_steps / one.seconds for one in baseline]),
        Row.of("held-out loss, nats a token", "", [one.loss for one in mine], [one.loss for one in baseline]),
        Row.of("steps", "", [our_steps], [their_steps]),
        Row.of("rate", "", [our_rate], [their_rate]),
    ]


def mean_loss(made: Sequence[Trained]) -> float:
    """Over seeds."""
    return statistics.mean(one.loss for one in made)


def to_loss(wanted: float, train: Callable[[int], list[Trained]], steps: int, most: int) -> tuple[list[Trained], int]:
    """The shortest trainings whose mean held-out loss is `wanted` or less, of `steps` or more, and their steps; the longest of at most `most` where none is."""
    made = train(steps)
    while mean_loss(made) > wanted and steps < most:
        steps = min(most, math.ceil(MORE * steps))
        made = train(steps)
    return made, steps


def _best(side: Side, steps: int) -> tuple[float, int]:
    """The rate that gives the lowest held-out loss, each tried for a part of the steps; and whether that part serves it best, or all of them."""
    short = round(SHORT * steps)
    rate, loss = _best_rate(side, short)
    return rate, steps if side(rate, steps, 0).loss < loss else short


def _best_rate(side: Side, steps: int) -> tuple[float, float]:
    """The rate that gives the lowest held-out loss in so many steps, and that loss."""
    losses = {rate: side(rate, steps, 0).loss for rate in RATES}
    rate = min(losses, key=losses.__getitem__)
    return rate, losses[rate]


def tokens_of(source: Path, adapter: Adapter, name: str, base: str) -> tuple[list[Tokens], list[Tokens]]:
    """Prompt and completion ids of the labels of adapter `name` in `source`: to learn, and held out, apart by their groups as everywhere."""
    made = Frames(source).labels() if source.suffix == ".toml" else labels_of(source, name, adapter.spec, "")
    labels = [label for label in made if isinstance(label, Label) and label.adapter == name]
    rows = [Example(label.example_id, (group := group_of(label)), split_of(group), {"input": json.loads(label.input), "output": json.loads(label.output)}) for label in labels]
    learn, held_out = ([row for row in rows if row.split is split] for split in (Split.TRAIN, Split.EVALUATION))
    if not learn or not held_out:
        raise SettingsError(f"{source} has {len(learn)} examples of {name} to learn from and {len(held_out)} held out, by their groups: both are needed")
    tokenizer, shortlist = load_tokenizer(base), Shortlist(lambda texts: minilm().encode(texts))

    def tokens(part: Sequence[Example]) -> list[Tokens]:
        return sft.fitting(fork.tokens_of(fork.offers(adapter.spec, part, shortlist), tokenizer, adapter.recipe.seed), adapter.recipe)

    return tokens(learn), tokens(held_out[:MAX_HELD_OUT])


def _trained(train: Callable[[float, int, int, Path], PeftModel], held_out: Sequence[Tokens], rate: float, steps: int, seed: int) -> Trained:
    with tempfile.TemporaryDirectory(prefix="loom-bench-") as folder:
        began = time.perf_counter()
        model = train(rate, steps, seed, Path(folder))
        return Trained(time.perf_counter() - began, completion_loss(model, held_out))


def completion_loss(model: PeftModel, rows: Sequence[Tokens]) -> float:
    """Mean cross entropy of the completions' tokens, in nats a token, in float32."""
    import torch

    model.eval().float()
    total, count = 0.0, 0
    with torch.inference_mode():
        for prompt, completion in rows:
            ids = torch.tensor([prompt + completion], device=model.device)
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, len(prompt) :], reduction="sum"))
            count += len(completion)
    return total / count


def _ours(base: str, rows: Sequence[Tokens], recipe: Recipe, rate: float, steps: int, seed: int, folder: Path) -> PeftModel:
    epochs = 1.0 + steps * recipe.batch_size / len(rows)  # the steps decide
    return sft.train(base, rows, recipe.model_copy(update={"learning_rate": rate, "max_steps": steps, "epochs": epochs, "seed": seed}), folder, lambda _: None)


def _trl(base: str, rows: Sequence[Tokens], recipe: Recipe, rate: float, steps: int, seed: int, folder: Path) -> PeftModel:
    """As TRL trains prompts and completions where nothing is said but what both sides share: the adapter's shape, rate, steps and effective batch."""
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from trl import SFTConfig, SFTTrainer

    at_once = min(SFTConfig.per_device_train_batch_size, recipe.batch_size)
    arguments = SFTConfig(
        output_dir=str(folder), completion_only_loss=True, max_steps=steps, learning_rate=rate, gradient_accumulation_steps=recipe.batch_size // at_once, per_device_train_batch_size=at_once,
        seed=seed, report_to="none", save_strategy="no", disable_tqdm=True, use_cpu=not torch.cuda.is_available(),
    )  # fmt: skip
    # TRL learns the completions alone where it is given both as text; given ids, it has to be told
    columns = {"input_ids": [p + c for p, c in rows], "completion_mask": [[0] * len(p) + [1] * len(c) for p, c in rows]}
    trainer = SFTTrainer(model=base, args=arguments, train_dataset=Dataset.from_dict(columns), processing_class=load_tokenizer(base), peft_config=lora_of(recipe))
    trainer.train()
    trainer.save_model(str(folder))
    assert isinstance(trainer.model, PeftModel)
    return trainer.model
