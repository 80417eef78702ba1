"""A training in a process of its own: `python -m tests.support.training sft|whole|dpo FOLDER [BACKEND]`. It says each tenth step, and keeps a checkpoint at every one."""

from __future__ import annotations

import os
import sys
from multiprocessing.connection import Connection
from pathlib import Path

from runtime.project import Dpo, Recipe
from runtime.tasks.prompt import load_tokenizer
from trainers import dpo, sft
from trainers.conditions import Conditions
from trainers.progress import Moment, Report

BASE = str(Path(__file__).parents[2] / "models/base")
STEPS = 30


def said(moment: Moment) -> None:
    print(moment.step, flush=True)


def tell(connection: Connection, kind: str, folder: Path) -> None:
    """The training in the process that this is, which tells its steps to `connection`."""
    main(kind, folder, said=lambda moment: connection.send(moment.step))


def main(kind: str, folder: Path, backend: str = "trl", *, said: Report = said) -> None:
    conditions = Conditions(checkpoint_seconds=0.0, backend=backend, axolotl=os.environ.get("LOOM_AXOLOTL", "axolotl"))
    tokenizer = load_tokenizer(BASE)
    texts = [(f"item {i} of {'many ' * (i % 7)}:", f" good {i}", f" poor {i}") for i in range(240)]
    pairs = [(tokenizer.encode(prompt), tokenizer.encode(chosen), tokenizer.encode(rejected)) for prompt, chosen, rejected in texts]
    recipe, rows = Recipe(max_steps=STEPS, batch_size=8, epochs=9.0), [(prompt, chosen) for prompt, chosen, _ in pairs]
    match kind:
        case "sft":
            sft.train(BASE, rows, recipe, folder / kind, said, conditions)
        case "whole":
            sft.train_whole(BASE, rows, recipe.model_copy(update={"learning_rate": 5e-4}), folder / kind, said, conditions)
        case "dpo":
            sft.train(BASE, rows, recipe.model_copy(update={"max_steps": 5}), folder / "sft", lambda *_: None, conditions)
            dpo.align(BASE, folder / "sft", pairs, recipe, Dpo(), folder / kind, said, conditions)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *sys.argv[3:])
