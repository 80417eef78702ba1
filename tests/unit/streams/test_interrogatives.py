"""What a sentence is turned into: questions that it answers, as people ask them, and none where it is not understood."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.teacher.clauses import clause, instruction
from streams.teacher.interrogatives import ask


def asked(sentence: str, kind: str, topic: str = "") -> list[str]:
    return [one.text for one in ask(sentence, topic) if one.kind == kind and not one.brief]


@pytest.mark.parametrize(
    ("sentence", "kind", "question"),
    [
        ("The pump filters the pond for six hours on one charge.", "whether", "does the pump filter the pond for six hours on one charge?"),
        ("The pump filters the pond for six hours on one charge.", "how long", "how long does the pump filter the pond on one charge?"),
        ("Gateways retry a call up to five times a minute.", "how often", "how often do gateways retry a call?"),
        ("A reader must answer within two weeks.", "how soon", "how soon must a reader answer?"),
        ("The beam reaches eleven metres.", "how far", "how far does the beam reach?"),
        ("The oven is held at 180 degrees.", "at what temperature", "at what temperature is the oven held?"),
        ("The fan draws at most 40 watts.", "how much", "how much does the fan draw?"),
        ("A rack holds up to twelve trays.", "how many", "how many trays does a rack hold?"),
        ("The nightly copy is made between one and three in the morning.", "when", "when is the nightly copy made?"),
        ("Keys are kept in the security settings.", "where", "where are keys kept?"),
        ("Only an administrator can delete a space.", "who", "who can delete a space?"),
        ("An index speeds up reads.", "what", "what speeds up reads?"),
        ("If the disk is full, writes are refused.", "what if", "what happens if the disk is full?"),
        ("If the disk is full, writes are refused.", "what if", "the disk is full, what now?"),
        ("Writes are refused when the disk is full.", "when", "when are writes refused?"),
        ("Turn the tap clockwise to empty both tanks.", "how", "how do I turn the tap clockwise to empty both tanks?"),
        ("Hold the lever down to empty both tanks.", "whether", "do I have to hold the lever down to empty both tanks?"),
        ("Press the lid to start brewing.", "how", "how can I start brewing?"),
        ("Do not open the lid while it spins.", "whether", "can I open the lid while it spins?"),
        ("To reset the counter, hold both keys.", "how", "how do I reset the counter?"),
        ("If you lose the key, ask the office.", "what if", "what should I do if I lose the key?"),
        ("The owner can't be removed.", "whether", "can the owner be removed?"),
    ],
)
def test_a_sentence_is_asked_for_by_what_it_says(sentence: str, kind: str, question: str) -> None:
    assert question in asked(sentence, kind)


@pytest.mark.parametrize(
    ("sentence", "question"),
    [
        ("You can send us your files.", "can I send you my files?"),
        ("We call you within two days.", "do you call me within two days?"),
        ("The shop sends you our list when you ask.", "does the shop send me your list?"),
    ],
)
def test_the_reader_asks_what_the_writer_told(sentence: str, question: str) -> None:
    assert question in asked(sentence, "whether")


def test_what_is_named_above_stands_for_it() -> None:
    assert "does the pond pump run for two years?" in asked("It runs for two years.", "whether", "Pond pump")
    assert "do I have to turn the pond pump off in winter?" in asked("Turn it off in winter.", "whether", "Pond pump")


@pytest.mark.parametrize(
    "sentence",
    [
        "See the guide on retries.",
        "It is recommended to use two disks.",
        "| a | b |",
        "When a payment fails we try again.",
        "Learn how to get up and running.",
        "Have you seen it?",
        "Bananas.",
        "",
    ],
)
def test_what_is_not_understood_is_not_asked_for(sentence: str) -> None:
    assert list(ask(sentence, "")) == []


@pytest.mark.parametrize(
    ("sentence", "subject", "auxiliary", "rest"),
    [
        ("Three false alarms in a month cost a fee", "three false alarms in a month", "do", "cost a fee"),
        ("Door codes of the person are erased", "door codes of the person", "are", "erased"),
        ("Clips that are marked with a star are never overwritten", "clips that are marked with a star", "are", "never overwritten"),
        ("During these thirty days a login restores everything", "a login", "does", "restore everything during these thirty days"),
        ("The key has a red edge", "the key", "does", "have a red edge"),
        ("Deleting the owner account removes the home", "deleting the owner account", "does", "remove the home"),
    ],
)
def test_a_clause_is_cut_at_its_verb(sentence: str, subject: str, auxiliary: str, rest: str) -> None:
    found = clause(sentence)
    assert found is not None
    assert (found.subject, found.auxiliary, found.rest) == (subject, auxiliary, rest)


@pytest.mark.parametrize(
    ("sentence", "told"),
    [("Turn the hub off", "turn the hub off"), ("Create config files for it", "create config files for it"), ("Do not unplug it", "do not unplug it"), ("The hub is off", ""), ("Lamps are on", ""), ("Use is free", "")],
)
def test_instructions_are_known_by_how_they_begin(sentence: str, told: str) -> None:
    assert instruction(sentence) == told


WORDS = st.sampled_from("the a hub hubs loads load is can not when if for thirty days up to every it you your in settings and , which that Turn To has".split())


@given(st.lists(WORDS, max_size=14).map(" ".join), st.sampled_from(["", "Pond pump"]))
def test_any_words_make_questions_or_none(sentence: str, topic: str) -> None:
    for one in ask(sentence + ".", topic):
        assert one.text.endswith("?")
        assert one.text.strip() == one.text
        assert "  " not in one.text
