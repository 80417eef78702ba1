"""What the benchmarks of the streams measure, on real pages; those are not part of the project, without them this is skipped."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from loom.bench import train
from loom.bench.baselines import entities_by_minilm
from loom.bench.dedup import FULL_OVER_EMPTY, accuracy, editions, judged, shares, store
from loom.bench.whole import EVERY, SAME, Whole
from runtime.errors import SettingsError
from runtime.project import load_project
from streams.cut import token_counter
from tests.support.pdf import pdf_drawn, words

if TYPE_CHECKING:
    from peft import PeftModel

ROOT = Path(__file__).parents[2]
PAIRS = ROOT.parent / "shared" / "data" / "docs-near-duplicates"


def test_twins_of_two_editions_are_found() -> None:
    if not PAIRS.exists():
        pytest.skip(f"no pairs at {PAIRS}")
    pairs = editions(PAIRS)
    pieces = judged(PAIRS, pairs, token_counter(str(ROOT / "models" / "base")))
    recall, precision = accuracy(pieces)
    assert recall > 0.95
    assert precision > 0.95
    found = shares(pieces, pairs)
    assert found["identical"] == 1.0
    assert found["near"] > 0.8
    assert found["changed"] < 0.3


def test_a_folder_without_pairs_says_so(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"pairs.csv is missing"):
        editions(tmp_path)


def test_verdicts_do_not_slow_down_as_the_store_fills() -> None:
    texts = [" ".join(f"w{i * j % 997}" for j in range(90)) for i in range(1, 60)]
    rows = {row.what: row for row in asyncio.run(store(texts, 3000))}
    ratio = rows[FULL_OVER_EMPTY].ratio
    assert ratio is not None
    assert ratio > 0.5


MEMORY = """
import resource, sys
from pathlib import Path
from streams.cut import Cutting, cut
from streams.pool import MEMORY_BYTES, _confine
from streams.privacy import Pii
_confine(MEMORY_BYTES)
for name in sys.argv[2:]:
    cut("application/pdf", Path(name).read_bytes(), Cutting(sys.argv[1], Pii.OFF, b"k" * 32))
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
PAGES, KIB_A_PAGE = 1000, 200


def test_memory_is_bounded_by_the_pages(tmp_path: Path) -> None:
    lines = [f"Line {i} of the page says that the lamp in room {i * 7} is kept dry by its owner." for i in range(40)]
    for name, pages in (("short.pdf", 1), ("long.pdf", PAGES)):
        (tmp_path / name).write_bytes(pdf_drawn(["\n".join(words(60, 740 - 16 * i, f"{page}. {line}", 10) for i, line in enumerate(lines)) for page in range(pages)]))
    told = subprocess.run([sys.executable, "-c", MEMORY, str(ROOT / "models" / "base"), str(tmp_path / "short.pdf"), str(tmp_path / "long.pdf")], cwd=ROOT, capture_output=True, text=True, check=True)
    short, long = map(int, told.stdout.split())
    assert long - short < PAGES * KIB_A_PAGE


def test_both_sides_of_the_training_benchmark_learn_the_same(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A few steps of each at one rate, so few that neither learns more than the other."""
    project = load_project(ROOT / "examples/pebblewire/loom.toml")
    texts = {"POSITIVE": "I love the {}", "NEGATIVE": "the {} is broken again", "NEUTRAL": "where is the {}"}
    rows = [{"text": text.format(f"thing {i}"), "label": label, "group": f"{label} {i}"} for label, text in texts.items() for i in range(30)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.setattr(train, "QUICK_STEPS", 3)
    monkeypatch.setattr(train, "RATES", (1e-3,))
    found = {row.what: row for row in train.train_rows(tmp_path / "rows.jsonl", project.adapters["classifier"], "classifier", project.base_folder, quick=True)}
    loss = found["held-out loss, nats a token"]
    assert loss.baseline is not None
    assert loss.ours <= loss.baseline < 5.0
    assert 3 <= found["steps"].ours < 50


@pytest.mark.parametrize("side", [train._ours, train._trl])
def test_neither_side_of_the_training_benchmark_learns_prompts(side: Callable[..., PeftModel], tmp_path: Path) -> None:
    project = load_project(ROOT / "examples/pebblewire/loom.toml")
    base, recipe = project.base_folder, project.adapters["classifier"].recipe
    prompt, completion = list(range(100, 130)), [7, 8]
    model = side(base, [(prompt, completion)] * recipe.batch_size, recipe, 4e-3, 12, 0, tmp_path)
    with model.disable_adapter():
        before = [train.completion_loss(model, [rows]) for rows in ((prompt[:1], prompt[1:]), (prompt, completion))]
    after = [train.completion_loss(model, [rows]) for rows in ((prompt[:1], prompt[1:]), (prompt, completion))]
    assert after[1] < 0.1 * before[1]
    assert after[0] > 0.8 * before[0]


def test_all_weights_learn_what_an_adapter_learns_of_the_same_rows() -> None:
    project = load_project(ROOT / "examples/pebblewire/loom.toml")
    adapter = project.adapters["classifier"]
    quick = adapter.model_copy(update={"recipe": adapter.recipe.model_copy(update={"max_steps": 30, "epochs": 9.0, "learning_rate": 5e-3})})
    texts = {"POSITIVE": "I love the {}", "NEGATIVE": "the {} is broken again", "NEUTRAL": "where is the {}"}
    rows = [{"text": text.format(f"thing {i}"), "label": label} for label, text in texts.items() for i in range(40)]
    whole = Whole(project.model_copy(update={"adapters": {"classifier": quick}}))
    said = whole.answers("classifier", [row for i, row in enumerate(rows) if i % 4], rows[::4])
    assert list(said) == [SAME, EVERY]
    for mode, answers in said.items():
        assert sum(answer == row["label"] for answer, row in zip(answers, rows[::4], strict=True)) >= 27, mode
    assert [(score.what, score.mode, score.count) for score in whole.scores] == [(f"training of classifier, {unit}", mode, 90) for mode in (SAME, EVERY) for unit in ("s", "MiB")]
    with pytest.raises(SettingsError, match="a row is none of adapter classifier"):
        whole.answers("classifier", [{"text": "hi", "label": "ODD"}], [])


def test_names_are_tagged_by_the_encoder_where_they_stand_and_as_far_as_it_reads() -> None:
    said = [("we met Ann Lee in May", "Ann Lee", "PER"), ("then Bob Ray left us", "Bob Ray", "PER"), ("he went to Oslo at night", "Oslo", "LOC"), ("they flew to Rome at noon", "Rome", "LOC")]
    train = [{"text": text, "entities": [{"start": (at := text.index(name)), "end": at + len(name), "label": label}]} for text, name, label in said] * 3
    asked = [{"text": "we met  Bob Ray in May"}, {"text": "they went to Rome at night"}, {"text": "they went to Rome at night" + " and on" * 300 + " to Rome"}]
    rome = [{"start": 13, "end": 17, "label": "LOC"}]
    assert entities_by_minilm([*train, {"text": "nothing of that is true, and on and on and on to that", "entities": []}], asked) == [[{"start": 7, "end": 14, "label": "PER"}], rome, rome]


def test_a_file_without_held_out_rows_says_so(tmp_path: Path) -> None:
    project = load_project(ROOT / "examples/pebblewire/loom.toml")
    (tmp_path / "rows.jsonl").write_text('{"text": "hi", "label": "NEUTRAL"}\n')
    with pytest.raises(SettingsError, match="examples of classifier to learn from and"):
        train.tokens_of(tmp_path / "rows.jsonl", project.adapters["classifier"], "classifier", project.base_folder)
