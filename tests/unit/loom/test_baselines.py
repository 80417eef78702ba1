"""The simple models that adapters are compared with: each learns what it can from a few rows."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loom.bench.baselines import (
    constant,
    entities_by_minilm,
    entities_by_tfidf,
    entities_of,
    minilm_head,
    nearest_by_minilm,
    nearest_by_tfidf,
    tags_of,
    tfidf,
    tools_by_minilm,
    tools_by_tfidf,
)

WEATHER = {"name": "GetWeather", "description": "The weather of a city"}
TICKETS = {"name": "BuyEventTickets", "description": "Buy tickets for an event"}
TOOLS = [WEATHER, TICKETS]


def test_labels_are_learned() -> None:
    texts, labels = ["good day", "good food", "bad day", "bad food"] * 3, ["G", "G", "B", "B"] * 3
    assert tfidf(texts, labels, ["so good", "so bad"]) == minilm_head(texts, labels, ["so good", "so bad"]) == ["G", "B"]
    assert constant(["A", "B", "A"], 2) == ["A", "A"]


@pytest.mark.parametrize("choose", [tools_by_tfidf, tools_by_minilm])
def test_a_tool_is_chosen_of_those_that_the_row_brings(choose: Any) -> None:
    train = [
        *({"text": f"will the weather in {city} be fine", "tools": TOOLS, "calls": [{"tool": "GetWeather"}]} for city in ("Rome", "Oslo", "Lima")),
        *({"text": f"buy me tickets for {event}", "tools": TOOLS, "calls": [{"tool": "BuyEventTickets"}]} for event in ("the opera", "the match", "the fair")),
        *({"text": text, "tools": TOOLS, "calls": []} for text in ("thank you so much", "good morning to all", "that was a joke")),
    ]
    asked = [{"text": "the weather in Cairo please", "tools": TOOLS}, {"text": "get tickets for the circus", "tools": TOOLS[::-1]}, {"text": "thank you all", "tools": TOOLS}, {"text": "the weather", "tools": []}]
    assert choose(train, asked) == ["GetWeather", "BuyEventTickets", None, None]


@pytest.mark.parametrize("choose", [tools_by_tfidf, tools_by_minilm])
def test_nothing_is_chosen_where_nothing_could_be_learned(choose: Any) -> None:
    assert choose([{"text": "thanks", "tools": TOOLS, "calls": []}], [{"text": "weather", "tools": TOOLS}]) == [None]


def test_names_are_tagged_where_they_stand() -> None:
    train = [
        {"text": text, "entities": [{"start": (at := text.index(name)), "end": at + len(name), "label": label}]}
        for text, name, label in [("we met Ann Lee in May", "Ann Lee", "PER"), ("then Bob Ray left us", "Bob Ray", "PER"), ("he went to Oslo at night", "Oslo", "LOC"), ("they flew to Rome at noon", "Rome", "LOC")] * 3
    ] + [{"text": "nothing of that is true", "entities": []}]
    asked = [{"text": "we met  Bob Ray in May"}, {"text": "they went to Rome at night"}, {"text": "nothing is true"}]
    assert entities_by_tfidf(train, asked) == [[{"start": 7, "end": 14, "label": "PER"}], [{"start": 13, "end": 17, "label": "LOC"}], []]


@pytest.mark.parametrize("tag", [entities_by_tfidf, entities_by_minilm])
def test_no_entity_is_found_where_none_was_shown(tag: Any) -> None:
    assert tag([{"text": "no name", "entities": []}], [{"text": "Ann"}]) == [[]]


@given(st.lists(st.tuples(st.sampled_from(["OUT", "PER", "LOC"]), st.integers(1, 3)), min_size=1, max_size=6))
def test_tags_give_back_what_they_were_made_of(parts: list[tuple[str, int]]) -> None:
    words = ["word" for _, count in parts for _ in range(count)]
    text, entities, at = " ".join(words), [], 0
    for label, count in parts:
        if label != "OUT":
            entities.append({"start": 5 * at, "end": 5 * (at + count) - 1, "label": label})
        at += count
    assert entities_of(text, tags_of(text, entities)) == entities


def test_an_inside_without_a_begin_begins_an_entity() -> None:
    assert entities_of("a b c", ["I-X", "I-Y", "O"]) == [{"start": 0, "end": 1, "label": "X"}, {"start": 2, "end": 3, "label": "Y"}]


@pytest.mark.parametrize("answer", [nearest_by_tfidf, nearest_by_minilm])
def test_the_nearest_question_lends_its_answer(answer: Any) -> None:
    train = [{"text": "how do I boil an egg", "answer": "six minutes"}, {"text": "when was the first Moon landing", "answer": "in 1969"}]
    assert answer(train, [{"text": "the Moon landing: when was it?"}, {"text": "I want to boil eggs"}]) == ["in 1969", "six minutes"]
