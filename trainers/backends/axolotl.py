"""Axolotl (github.com/axolotl-ai-cloud/axolotl), by its command in an environment of its own: its pins are not ours. Its YAML is written from the recipe, what it makes is taken back.

It reads its examples from a file: while it trains, their token ids are in the run's folder. TRL aligns: Axolotl's DPO takes texts, where the one renderer makes ids.
"""

from __future__ import annotations

import ast
import json
import os
import shutil
import subprocess
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from trainers.backends import Lesson, Preferences
from trainers.backends.trl import BACKEND as TRL
from trainers.backends.trl import LOGGED_STEPS, Curriculum, lora_of
from trainers.base_model import load_model
from trainers.checkpoints import FOLDER, adopt, last_whole, step_of
from trainers.conditions import Conditions
from trainers.memory import is_out_of_memory
from trainers.packing import IGNORED
from trainers.progress import Pace, Report, tree_bytes

CHECKPOINTS = 10
"""Of a training, evenly spread: Axolotl knows no other."""
TOLD_LINES = 30
QUIET = {"AXOLOTL_DO_NOT_TRACK": "1", "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1"}
GPU_KERNELS = ("lora_mlp_kernel", "lora_qkv_kernel", "lora_o_kernel")
"""Axolotl takes them by itself, also where there is no GPU."""
PASSED_ON = {
    "max_steps", "learning_rate", "gradient_accumulation_steps", "warmup_steps", "weight_decay", "logging_steps", "save_total_limit", "seed", "gradient_checkpointing", "output_dir",
}  # fmt: skip
"""What Axolotl names as transformers does."""


class Axolotl:
    """One process for each of the conditions' processes, started by Axolotl. It ends with ours, at its next word."""

    def teach(self, lesson: Lesson, report: Report, conditions: Conditions) -> None:
        """As the port says. Raises MemoryError or RuntimeError with Axolotl's last words."""
        lesson = replace(lesson, folder=lesson.folder.resolve(), base=str(Path(lesson.base).resolve()) if Path(lesson.base).exists() else lesson.base, start=lesson.start.resolve() if lesson.start else None)
        curriculum = Curriculum(lesson)
        checkpoints, work = lesson.folder / FOLDER, lesson.folder / "axolotl"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        try:
            with (work / "rows.jsonl").open("w", encoding="utf-8") as rows:
                rows.writelines(_row(*lesson.rows[place]) for place in curriculum.order)
            last = last_whole(checkpoints)
            if not lesson.whole and not lesson.start:
                lesson = replace(lesson, start=_first(lesson, work / "first"))
            begun = step_of(last) if last else 0
            (work / "train.yaml").write_text(yaml.safe_dump(config(lesson, curriculum.arguments(lesson, conditions), conditions, work, last), sort_keys=False))
            _run(command(conditions, work / "train.yaml"), work, begun, Pace(report, curriculum.tokens(), begun))
        finally:
            shutil.rmtree(work, ignore_errors=True)
        adopt(checkpoints, lesson.folder)

    def align(self, preferences: Preferences, report: Report, conditions: Conditions) -> None:
        """As the port says, with TRL."""
        TRL.align(preferences, report, conditions)


BACKEND = Axolotl()


def config(lesson: Lesson, arguments: Mapping[str, Any], conditions: Conditions, work: Path, last: Path | None) -> dict[str, Any]:
    """Axolotl's configuration of a lesson whose rows are in `work`, in the order of its steps. `arguments` are those for TRL; `last` is the checkpoint to go on from. Pure."""
    steps, every = arguments["max_steps"], arguments["logging_steps"]
    recipe = lesson.recipe
    lora = {"adapter": "lora", "lora_r": recipe.rank, "lora_alpha": recipe.alpha, "lora_dropout": 0.0, "lora_target_linear": True, "lora_model_dir": str(lesson.start) if lesson.start else None}
    lora |= dict.fromkeys(GPU_KERNELS, False) if arguments["use_cpu"] else {}
    said = {name: value for name, value in arguments.items() if name in PASSED_ON} | {
        "lr_scheduler": arguments["lr_scheduler_type"], "micro_batch_size": arguments["per_device_train_batch_size"], "num_epochs": 1, "optimizer": "adamw_torch",
        "base_model": lesson.base, "datasets": [{"path": str(work / "rows.jsonl"), "ds_type": "json", "type": None}], "dataset_prepared_path": str(work / "prepared"),
        "sequence_len": recipe.max_tokens, "sample_packing": False, "pad_to_sequence_len": False, "curriculum_sampling": True, "shuffle_merged_datasets": False, "val_set_size": 0,
        "save_steps": max(every, round(steps / CHECKPOINTS / every) * every), "resume_from_checkpoint": str(last) if last else None, "strict": False,
        **{f"use_{name}": True for name in conditions.report_to}, **({} if lesson.whole else lora),
    }  # fmt: skip
    said["bf16"] = arguments["bf16"] and not arguments["use_cpu"]  # on a CPU transformers wants to be told more than Axolotl passes on
    return {name: value for name, value in said.items() if value is not None}


def command(conditions: Conditions, written: Path) -> list[str]:
    """Axolotl's, for the configuration in `written`. Pure."""
    if conditions.processes == 1:
        return [conditions.axolotl, "train", str(written), "--launcher", "python"]
    return [conditions.axolotl, "train", str(written), "--launcher", "torchrun", "--", f"--nproc_per_node={conditions.processes}"]


def losses(lines: Iterable[str]) -> Iterable[float]:
    """Those that transformers prints in between. Pure."""
    for line in lines:
        _, brace, rest = line.partition("{'loss'")
        if brace:
            try:
                yield float(ast.literal_eval(brace + rest[: rest.index("}") + 1])["loss"])
            except (SyntaxError, ValueError):  # cut by another process's words
                continue


def _first(lesson: Lesson, folder: Path) -> Path:
    """A new adapter to begin with, drawn by the recipe's seed: Axolotl draws one by chance, and a run that is made again would be another."""
    import torch
    from peft import get_peft_model

    torch.manual_seed(lesson.recipe.seed)
    get_peft_model(load_model(lesson.base), lora_of(lesson.recipe)).save_pretrained(str(folder))
    return folder


def _row(prompt: list[int], completion: list[int]) -> str:
    return json.dumps({"input_ids": prompt + completion, "attention_mask": [1] * len(prompt + completion), "labels": [IGNORED] * len(prompt) + completion}) + "\n"


def _run(words: list[str], work: Path, step: int, pace: Pace) -> None:
    """Runs Axolotl in `work`, where its copies of the rows stay too."""
    heard: deque[str] = deque(maxlen=TOLD_LINES)
    environment = os.environ | QUIET | {"HF_DATASETS_CACHE": str(work / "cache")}
    program = os.path.abspath(shutil.which(words[0]) or words[0])  # noqa: PTH100, for it may be a link into its environment
    with subprocess.Popen([program, *words[1:]], cwd=work, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace") as process:
        assert process.stdout is not None

        def lines() -> Iterable[str]:
            for line in process.stdout or ():
                heard.append(line)
                yield line

        try:
            for loss in losses(lines()):
                step += LOGGED_STEPS
                pace.at(step, loss, tree_bytes(process.pid))
        except BaseException:
            process.kill()
            raise
    if process.returncode:
        error = RuntimeError(f"axolotl ended with {process.returncode}: {''.join(heard).strip()}")
        raise MemoryError(str(error)) if is_out_of_memory(error) else error
