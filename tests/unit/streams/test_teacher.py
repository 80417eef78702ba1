"""The offline teacher asks about what a passage says, evenly, and answers with its words."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from streams.teacher.offline import questions

WORDS = st.text("abcdefghijklmnopqrstuvwxyz", min_size=4, max_size=9)
SENTENCES = st.lists(WORDS, min_size=9, max_size=14).map(lambda words: " ".join(words).capitalize() + ".")
PASSAGES = st.lists(SENTENCES, min_size=1, max_size=8, unique=True)


@given(PASSAGES, st.integers(0, 40))
def test_answers_are_sentences_of_the_passage_and_questions_name_their_topic(sentences: list[str], count: int) -> None:
    made = questions(" ".join(sentences), count)
    assert len(made) <= count
    for question, answer, topic in made:
        assert answer in sentences
        assert topic in question
        assert set(topic.split()) <= {w.strip(".").lower() for w in answer.split()}


@given(PASSAGES)
def test_every_sentence_is_asked_about_before_any_is_asked_about_again(sentences: list[str]) -> None:
    eligible = [s for s in sentences if 40 <= len(s) <= 240]
    asked = Counter(answer for _, answer, _ in questions(" ".join(sentences), 2 * len(eligible)))
    assert asked == dict.fromkeys(eligible, 2)
