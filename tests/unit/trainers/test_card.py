"""A version's card: what the Hub reads of it, the counts, the licences; none of the texts."""

from __future__ import annotations

import pytest
import yaml

from runtime.project import Adapter, Cpt
from schemas.events import OffsetRange, Split
from trainers.artifact import Made
from trainers.card import card
from trainers.gate import Verdict
from trainers.snapshot import Manifest, Row

MADE = Made(("adapter_model.safetensors",), {"macro_f1": 0.8123, "base_macro_f1": 0.4}, Verdict(True, "macro_f1 0.81 on 250 held-out examples", {}))
MOOD = Adapter(task="classify", result="moods", labels=("A", "B"))


def rows(*licences: str | None) -> list[Row]:
    body = {"input": {"text": "a secret text"}, "output": {"label": "A"}}
    return [Row(f"e{i}", f"g{i % 2}", Split.EVALUATION if i == 0 else Split.TRAIN, body, is_correction=i == 1, licence=licence) for i, licence in enumerate(licences)]


def made_of(name: str, declared: Adapter | Cpt, learnt: list[Row]) -> str:
    manifest = Manifest(name, 1, "5ha", (OffsetRange(topic="t", partition=0, first=0, end=9),), tuple(row.example_id for row in learnt), "d19e57", declared.model_dump(mode="json"), None, None, None, None, 1)
    return card(f"{name}@7", "run-1", "base@1-1a2b3c4d", manifest, MADE, learnt)


def front_of(text: str) -> dict[str, object]:
    loaded: dict[str, object] = yaml.safe_load(text.split("---")[1])
    return loaded


@pytest.mark.parametrize(("licences", "named"), [(("Apache-2.0", "Apache-2.0"), "apache-2.0"), (("Apache-2.0", "MIT"), "other"), (("MIT", None), "other"), ((None, None), "other")])
def test_one_licence_of_all_examples_is_the_version_s(licences: tuple[str | None, ...], named: str) -> None:
    text = made_of("mood", MOOD, rows(*licences))
    assert front_of(text) == {"library_name": "peft", "base_model": "base@1-1a2b3c4d", "license": named, "tags": ["loraloom", "classify", "lora"]}
    assert f"| {licences[0] or 'none given'} | {licences.count(licences[0])} |" in text


def test_counts_scores_and_recipe_are_there_and_no_text() -> None:
    text = made_of("mood", MOOD, rows("MIT", "MIT", "MIT", "MIT"))
    for line in ("# mood@7", "| macro_f1 | 0.8123 |", "| to learn from | 3 |", "| held out | 1 |", "| corrections by users | 1 |", "| groups that never part | 2 |", "| rank | 16 |"):
        assert line in text.splitlines(), line
    assert MADE.verdict.reason in text
    assert "secret" not in text


def test_the_base_has_one_too() -> None:
    text = made_of("base", Cpt(), rows("MIT"))
    assert front_of(text)["library_name"] == "transformers"
    assert "pre-trained further" in text
