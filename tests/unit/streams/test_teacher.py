"""The offline teacher asks about what a passage says, evenly, and answers with its words."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.teacher.offline import questions
from streams.teacher.questions import QuestionAnswer, read_reply, reply_schema

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


@given(st.lists(st.builds(QuestionAnswer, question=st.text(min_size=1), answer=st.text(min_size=1), topic=st.text(min_size=1)), min_size=1))
def test_what_a_teacher_writes_is_read_back(pairs: list[QuestionAnswer]) -> None:
    rows = [{"question": p.question, "answer": p.answer, "topic": p.topic} for p in pairs]
    assert read_reply("Sure! " + json.dumps({"questions": rows})) == read_reply(json.dumps(rows)) == pairs


@given(st.lists(st.builds(QuestionAnswer, question=st.text(min_size=1), answer=st.text(min_size=1), topic=st.text(min_size=1)), min_size=1, max_size=4), st.data())
def test_of_a_reply_that_was_cut_the_whole_pairs_are_kept(pairs: list[QuestionAnswer], data: st.DataObject) -> None:
    reply = json.dumps({"questions": [{"question": p.question, "answer": p.answer, "topic": p.topic} for p in pairs]})
    found = read_reply(reply[: data.draw(st.integers(0, len(reply)))]) or []
    assert found == pairs[: len(found)]
    assert read_reply('{"questions": []}') == []


@pytest.mark.parametrize("reply", [None, "", "I can't do that.", "[1, 2", '{"questions": [{"question": "no answer"}]}', '{"questions": "none"}'])
def test_another_reply_is_no_reply(reply: str | None) -> None:
    assert read_reply(reply) is None


def test_the_schema_admits_no_more_than_was_asked_for() -> None:
    assert reply_schema(3)["properties"]["questions"]["maxItems"] == 3
