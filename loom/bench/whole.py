"""Full fine-tuning beside an adapter: the base with all its weights trained on the same rows, the most that an adapter could reach, and what each training takes."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

from loom.bench.scores import Score
from loom.labels import label_of
from runtime.encoder import minilm
from runtime.errors import SettingsError
from runtime.project import Adapter, Project
from runtime.tasks.prompt import load_tokenizer
from runtime.tasks.shortlist import Shortlist
from schemas.events import Split
from trainers import fork, sft
from trainers.base_model import give_memory_back
from trainers.evaluate import Invalid, answers
from trainers.progress import Moment
from trainers.snapshot import Row as Example

RATE = 0.1
"""Of an adapter's rate, which serves it best at about ten times that of all weights (Schulman et al. 2025, LoRA Without Regret)."""
SAME, EVERY = "adapter of the same rows", "all weights trained"
Row = Mapping[str, Any]


@dataclass
class Whole:
    """Trains and asks both for one adapter after the other; `scores` hears what each training took."""

    project: Project
    scores: list[Score] = field(default_factory=list)

    def answers(self, name: str, train: Sequence[Row], asked: Sequence[Row]) -> dict[str, list[Any]]:
        """What an adapter and the whole base say to `asked` once they have learned what adapter `name` would from `train`, under the same prompts and grammar; None where that can't be read.

        The adapter that serves has learned of fewer rows, since the gate held some back.

        Raises:
            SettingsError: a row is not of the adapter's task.
        """
        adapter, base = self.project.adapters[name], self.project.base_folder
        tokenizer, shortlist = load_tokenizer(base), Shortlist(lambda texts: minilm().encode(texts))
        recipe = adapter.recipe
        learn = fork.tokens_of(fork.offers(adapter.spec, _examples(adapter, name, train), shortlist), tokenizer, recipe.seed)
        questions = fork.served(adapter.spec, _examples(adapter, name, asked), shortlist)
        found = {}
        # the adapter first: what a process has freed is not all given back
        for mode, teach, rate in ((SAME, sft.train, recipe.learning_rate), (EVERY, sft.train_whole, RATE * recipe.learning_rate)):
            moments: list[Moment] = []
            began = time.perf_counter()
            with tempfile.TemporaryDirectory(prefix="loom-bench-") as folder:
                model = teach(base, learn, recipe.model_copy(update={"learning_rate": rate}), Path(folder), moments.append)
            self.scores += [
                Score(f"training of {name}, s", mode, time.perf_counter() - began, None, None, len(learn)),
                Score(f"training of {name}, MiB", mode, max(psutil.Process().memory_info().rss, *(moment.memory_bytes for moment in moments)) / 2**20, None, None, len(learn)),
            ]
            said, _ = answers(model, tokenizer, adapter.spec, questions)
            found[mode] = [None if isinstance(one, Invalid) else one for one in said]
            del model
            give_memory_back()
        return found


def _examples(adapter: Adapter, name: str, rows: Sequence[Row]) -> list[Example]:
    try:
        labels = [label_of(row, name, adapter.spec, "") for row in rows]
    except ValueError as error:
        raise SettingsError(f"a row is none of adapter {name}: {error}") from error
    return [Example(label.example_id, label.example_id, Split.TRAIN, {"input": json.loads(label.input), "output": json.loads(label.output)}) for label in labels]
