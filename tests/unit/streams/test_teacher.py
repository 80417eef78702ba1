"""The offline teacher asks about what a passage says, evenly, and answers with its words."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.teacher.offline import questions, subject_of

WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=9)
SENTENCES = st.lists(WORDS, min_size=9, max_size=14).map(lambda words: " ".join(words).capitalize() + ".")
PASSAGES = st.lists(SENTENCES, min_size=1, max_size=8, unique=True)


@given(PASSAGES, st.integers(0, 40))
def test_answers_are_sentences_of_the_passage_and_topics_come_in_pairs(sentences: list[str], count: int) -> None:
    made = questions(" ".join(sentences), count, "Papers > Notes")
    assert len(made) <= count
    assert all(answer in sentences for _, answer, _ in made)
    assert [topic for _, _, topic in made[:-1:2]] == [topic for _, _, topic in made[1::2]]


@given(PASSAGES)
def test_every_sentence_is_asked_about_before_any_is_asked_about_again(sentences: list[str]) -> None:
    eligible = [s for s in sentences if len(s) <= 240]
    asked = Counter(answer for _, answer, _ in questions(" ".join(sentences), 2 * len(eligible)))
    assert asked == dict.fromkeys(eligible, 2)


def test_only_the_first_of_a_pair_may_lean_on_the_passage_and_what_two_sentences_say_is_not_asked_for_briefly() -> None:
    one, two = "The blue pump runs for six hours on one charge.", "The red pump runs for nine hours on one charge."
    alone = [question for question, _, topic in questions(one, 40) if topic.startswith("how long")]
    assert alone[1] == "how long does the blue pump run on one charge?"
    both = [question for question, _, topic in questions(f"{one} {two}", 40) if topic.startswith("how long")]
    assert all("pump" in question for question in both)
    assert "how long?" in [question for question, _, _ in questions(one, 40)[::2]]


@pytest.mark.parametrize(
    ("heading", "name"),
    [("Cameras > Where to put it", "Cameras"), ("Hub > Restart (factory)", "Restart"), ("How-To: Share state between applications", ""), ("", ""), ("Pond pump > What it does > Filters", "Filters")],
)
def test_a_passage_is_about_the_last_title_that_names_a_thing(heading: str, name: str) -> None:
    assert subject_of(heading) == name
