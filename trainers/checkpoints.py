"""Checkpoints: what a run that dies goes on from, with the same examples in the same order.

They hold weights, the optimiser's state and the random state, no text, and leave with the run's folder.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from trainers.together import agreed, is_first

if TYPE_CHECKING:
    from peft import PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

log = structlog.get_logger()

FOLDER, PREFIX, WEIGHTS = "checkpoints", "checkpoint-", "adapter_model.safetensors"
_LAST = ("model.safetensors.index.json", "model.safetensors", WEIGHTS)
"""Weights of a large model are in several files, before what lists them."""
_MADE = ("config.json", "generation_config.json", "adapter_config.json", "*.safetensors", "*.safetensors.index.json")
STATE = "trainer_state.json"
"""What transformers writes last."""


def last_whole(folder: Path) -> Path | None:
    """The newest checkpoint under `folder` that was written to its end; what was cut off is removed."""
    found = sorted(folder.glob(f"{PREFIX}*"), key=step_of, reverse=True)
    whole = next((path for path in found if _is_whole(path)), None)
    for path in found:
        if path != whole:
            shutil.rmtree(path, ignore_errors=True)  # of processes that share a training each does so
    return whole


def step_of(checkpoint: Path) -> int:
    """The steps that were done when it was written."""
    return int(checkpoint.name.removeprefix(PREFIX))


def _is_whole(path: Path) -> bool:
    try:
        json.loads((path / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def saver(every_seconds: float) -> Any:
    """A callback that has a checkpoint written each time that `every_seconds` have passed: by time, since steps take from a tenth of a second to minutes."""
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

    class Saver(TrainerCallback):
        def __init__(self) -> None:
            self._last = time.monotonic()

        def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
            due = time.monotonic() - self._last >= every_seconds
            if (agreed(due, args.device) if args.world_size > 1 else due) and state.global_step < state.max_steps:
                control.should_save = True

        def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object) -> None:
            self._last = time.monotonic()

    return Saver()


def train_on(trainer: Any, folder: Path) -> Any:
    """The model that `trainer` has trained, from the last checkpoint under `folder` on, where there is one."""
    last = last_whole(folder / FOLDER)
    if last:
        log.info("run.resumed", checkpoint=last.name)
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    return trainer.model


def keep(model: PeftModel | PreTrainedModel, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
    """Writes an adapter or a whole model to `folder`, its weights last: where they are, it is whole. Of processes that share a training the first one does; it has the
    `weights` of all where each holds a part alone."""
    if not is_first():
        return
    part = folder / "part"
    model.save_pretrained(str(part), state_dict=weights, safe_serialization=True)
    _move(part.iterdir(), folder)
    part.rmdir()


def adopt(made: Path, folder: Path) -> None:
    """Moves what another trainer made to `folder`, as `keep` would have written it: weights and configuration."""
    _move([path for pattern in _MADE for path in made.glob(pattern)], folder)


def _move(paths: Iterable[Path], folder: Path) -> None:
    for path in sorted(paths, key=lambda path: _LAST.index(path.name) if path.name in _LAST else -1):
        path.replace(folder / path.name)


def is_kept(folder: Path) -> bool:
    """Whether `keep` has ended there."""
    return any((folder / name).exists() for name in _LAST)
