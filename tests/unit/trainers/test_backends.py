"""What Axolotl is told, and what is said of a backend that is not here."""

from __future__ import annotations

import json
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.errors import SettingsError
from runtime.project import Recipe
from trainers.backends import Lesson, axolotl
from trainers.backends.trl import Curriculum
from trainers.conditions import ALONE, Conditions, check_backend, check_sharded
from trainers.progress import Moment

RECIPE = Recipe(rank=8, alpha=16, batch_size=4, max_steps=25, epochs=9.0, max_tokens=64, learning_rate=2e-3, seed=7)
ROWS = [([10 + i] * (3 + i % 5), [20, 2]) for i in range(20)]


def lesson(folder: Path) -> Lesson:
    return Lesson("base", ROWS, RECIPE, folder, start=Path("live"))


def test_axolotls_configuration_is_the_recipe(tmp_path: Path) -> None:
    one = lesson(tmp_path)
    made = axolotl.config(one, Curriculum(one).arguments(one, ALONE), ALONE, tmp_path / "work", None)
    assert {name: made[name] for name in ("base_model", "adapter", "lora_r", "lora_alpha", "lora_dropout", "lora_target_linear", "learning_rate", "max_steps", "seed", "sequence_len")} == {
        "base_model": "base", "adapter": "lora", "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0, "lora_target_linear": True, "learning_rate": 2e-3, "max_steps": 25, "seed": 7, "sequence_len": 64,
    }  # fmt: skip
    assert made["micro_batch_size"] * made["gradient_accumulation_steps"] == RECIPE.batch_size
    assert (made["curriculum_sampling"], made["shuffle_merged_datasets"], made["sample_packing"]) == (True, False, False)  # the rows come in their order
    assert made["save_steps"] % made["logging_steps"] == 0
    assert (made["lora_model_dir"], made.get("resume_from_checkpoint")) == ("live", None)
    short = replace(ALONE, halvings=1, report_to=("wandb",))
    later = axolotl.config(one, Curriculum(one).arguments(one, short), short, tmp_path / "work", Path("checkpoint-10"))
    assert (later["lora_model_dir"], later["resume_from_checkpoint"], later["use_wandb"]) == ("live", "checkpoint-10", True)
    assert (later["micro_batch_size"], later["gradient_accumulation_steps"]) == (2, 2)
    whole = axolotl.config(replace(one, start=None, whole=True), Curriculum(one).arguments(one, ALONE), ALONE, tmp_path / "work", None)
    assert not [name for name in whole if name.startswith(("lora", "adapter"))]


def test_axolotls_processes() -> None:
    assert axolotl.command(Conditions(axolotl="/opt/axolotl"), Path("train.yaml")) == ["/opt/axolotl", "train", "train.yaml", "--launcher", "python"]
    assert axolotl.command(Conditions(processes=2), Path("train.yaml"))[-4:] == ["--launcher", "torchrun", "--", "--nproc_per_node=2"]


def test_the_losses_in_its_words() -> None:
    lines = ["[INFO] loading\n", "{'loss': '2.5', 'grad_norm': '1.0', 'epoch': '0.4'}\n", "\r 40%|####  | {'loss': 1.25, 'epoch': 0.8}\n", "{'loss': 1.0, 'ep\n", "{'train_runtime': 3.0, 'train_loss': 1.5}\n"]
    assert list(axolotl.losses(lines)) == [2.5, 1.25]


def stand_in(folder: Path, does: str) -> Conditions:
    """A command of that name, for what is ours around it: it is no Axolotl."""
    command = folder / "axolotl"
    command.write_text(f"#!/bin/sh\n{does}\n")
    command.chmod(command.stat().st_mode | stat.S_IXUSR)
    return Conditions(axolotl=str(command))


def test_what_axolotl_makes_is_taken_back_and_its_rows_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, heard = tmp_path / "run", list[Moment]()
    monkeypatch.chdir(tmp_path)
    does = f"""cp rows.jsonl {tmp_path}/seen.jsonl; cp "$2" {tmp_path}/seen.yaml
    echo "{{'loss': '2.0', 'epoch': '0.1'}}"; echo "{{'loss': '1.0', 'epoch': '0.2'}}"
    cd {folder}/checkpoints 2>/dev/null || mkdir -p {folder}/checkpoints && cd {folder}/checkpoints; echo {{}} > adapter_config.json; echo weights > adapter_model.safetensors; echo text > README.md"""
    stand_in(tmp_path, does)
    axolotl.BACKEND.teach(lesson(Path("run")), heard.append, Conditions(axolotl="./axolotl"))
    assert {path.name for path in folder.iterdir()} == {"adapter_config.json", "adapter_model.safetensors", "checkpoints"}
    assert [(moment.step, moment.steps, moment.loss) for moment in heard] == [(10, 25, 2.0), (20, 25, 1.0)]
    seen = [json.loads(line) for line in (tmp_path / "seen.jsonl").read_text().splitlines()]
    order = Curriculum(lesson(folder)).order
    assert [row["input_ids"] for row in seen] == [ROWS[place][0] + ROWS[place][1] for place in order]
    assert seen[0]["labels"] == [-100] * len(ROWS[order[0]][0]) + ROWS[order[0]][1]
    assert "curriculum_sampling: true" in (tmp_path / "seen.yaml").read_text()


@pytest.mark.parametrize(("words", "error"), [("no such model", RuntimeError), ("torch.OutOfMemoryError: CUDA out of memory. Tried", MemoryError)])
def test_an_axolotl_that_fails_says_why(words: str, error: type[Exception], tmp_path: Path) -> None:
    with pytest.raises(error, match=words):
        axolotl.BACKEND.teach(lesson(tmp_path / "run"), lambda _: None, stand_in(tmp_path, f"echo '{words}'; exit 3"))
    assert not (tmp_path / "run" / "axolotl").exists()


@pytest.mark.parametrize(("backend", "way_out"), [("unsloth", "requirements-gpu.txt"), ("axolotl", "LOOM_AXOLOTL")])
def test_a_backend_that_is_not_here_is_named_with_the_way_out(backend: str, way_out: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainers.conditions.find_spec", lambda _: None)
    monkeypatch.setattr("trainers.conditions.which", lambda _: None)
    with pytest.raises(SettingsError, match=rf"LOOM_RUN_BACKEND={backend}.*{way_out}"):
        check_backend(Conditions(backend=backend))


@pytest.mark.parametrize(
    ("conditions", "word"),
    [
        (Conditions(sharded=True), "needs LOOM_RUN_PROCESSES above 1"),
        (Conditions(sharded=True, processes=2, backend="unsloth"), "LOOM_RUN_BACKEND=trl"),
        (Conditions(sharded=True, processes=99), "99 processes need a GPU each, there are"),
    ],
)
def test_weights_are_shared_by_processes_with_a_gpu_each(conditions: Conditions, word: str) -> None:
    with pytest.raises(SettingsError, match=word):
        check_sharded(conditions)
    check_sharded(replace(conditions, sharded=False))
