"""Labels from frames: a function of file and seed, valid for their adapters, groups in both splits."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from loom.frames import Frames
from runtime.project import load_project
from schemas.events import Split
from streams.format import check, example_body, group_of, split_of, task_spec

EXAMPLE = Path(__file__).parents[3] / "examples/pebblewire"


def test_the_same_seed_gives_the_same_labels() -> None:
    first, second, other = (list(Frames(EXAMPLE / "frames.toml", seed).labels(5, 5, 5)) for seed in (1, 1, 2))
    assert first == second
    assert first != other


def test_every_label_is_valid_for_its_adapter_and_each_adapter_has_enough() -> None:
    project = load_project(EXAMPLE / "loom.toml")
    labels = {label.example_id: label for label in Frames(EXAMPLE / "frames.toml").labels()}.values()
    for label in labels:
        check(task_spec(project, label.adapter), example_body(label.input, label.output))
    counts = Counter((label.adapter, split_of(group_of(label))) for label in labels)
    for adapter in ("tool", "classifier"):
        assert counts[adapter, Split.TRAIN] + counts[adapter, Split.EVALUATION] >= project.adapters[adapter].min_examples
        assert counts[adapter, Split.EVALUATION] >= 60
