"""A shortlist holds the nearest tools or sentences, what must stay, and nothing that was not on offer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.encoder import minilm
from runtime.tasks.chat import sentences
from runtime.tasks.samples import TaskSpec
from runtime.tasks.shortlist import MAX_SENTENCES, Shortlist
from runtime.tasks.tool import Tool

WORDS = ("red", "green", "blue", "black", "white", "grey")
TOOLS = tuple(Tool(word, "", {}, (word,)) for word in WORDS)


def one_hot(texts: Sequence[str]) -> NDArray[np.float32]:
    """Each known word is a direction of its own, later words of a text count less."""
    vectors = np.zeros((len(texts), len(WORDS)), np.float32)
    for row, text in zip(vectors, texts, strict=True):
        for place, word in enumerate(text.strip(": ").split()):
            if word in WORDS:
                row[WORDS.index(word)] += 1 / (place + 1)
    return vectors


@given(st.permutations(WORDS), st.integers(1, 6), st.sets(st.sampled_from(WORDS), max_size=2))
def test_the_nearest_are_on_offer_in_their_declared_order(said: list[str], count: int, keep: set[str]) -> None:
    ((spec, _),) = Shortlist(one_hot).narrow(TaskSpec("tool", tools=TOOLS, shortlist=count), [{"message": " ".join(said)}], [keep])
    named = [tool.name for tool in spec.tools]
    shown = max(count, len(keep))
    assert len(named) == min(shown, len(TOOLS))
    assert named == [word for word in WORDS if word in named]
    wanted = [*(word for word in said if word in keep), *(word for word in said if word not in keep)]
    assert set(named) == set(wanted[:shown])


def test_of_the_tools_that_a_message_brings_the_nearest_are_on_offer() -> None:
    own = [{"name": word, "description": word} for word in ("grey", "white", "black")]
    spec = TaskSpec("tool", tools=TOOLS, shortlist=2)
    (declared, _), (brought, given_), (few, _) = Shortlist(one_hot).narrow(spec, [{"message": "red blue"}, {"message": "black red grey", "tools": own}, {"message": "red", "tools": own[:1]}])
    assert [tool.name for tool in declared.tools] == ["red", "blue"]
    assert [tool.name for tool in brought.tools] == ["grey", "black"]
    assert given_ == {"message": "black red grey"}
    assert [tool.name for tool in few.tools] == ["grey"]


@pytest.mark.parametrize(
    ("spec", "given_"),
    [
        (TaskSpec("tool", tools=TOOLS[:3], shortlist=4), {"message": "red"}),
        (TaskSpec("chat", shortlist=1), {"question": "red", "passage": "Blue. Red."}),
        (TaskSpec("chat", quote=True, shortlist=1), {"question": "red"}),
        (TaskSpec("chat", quote=True), {"question": "red", "passage": "Blue. Red."}),
    ],
    ids=["few tools", "free answers", "no passage", "no shortlist"],
)
def test_what_is_not_to_be_cut_down_stays_as_it_is(spec: TaskSpec, given_: Mapping[str, str]) -> None:
    assert Shortlist(one_hot).narrow(spec, [given_, given_]) == [(spec, given_), (spec, given_)]


@given(st.permutations(WORDS), st.permutations(WORDS), st.integers(1, 6), st.sets(st.sampled_from(WORDS), max_size=2))
def test_sentences_to_quote_stand_with_the_nearest_first(asked: list[str], said: list[str], count: int, keep: set[str]) -> None:
    spec = TaskSpec("chat", quote=True, shortlist=count)
    passage = "\n".join(f"{word} it is." for word in said)
    ((same, shown),) = Shortlist(one_hot).narrow(spec, [{"question": " ".join(asked), "passage": passage}], [{f"{word} it is." for word in keep}])
    assert same == spec
    words = [sentence.split()[0] for sentence in sentences(shown["passage"])]
    near = [*(word for word in asked if word in keep), *(word for word in asked if word not in keep)][: max(count, len(keep))]
    assert words == [word for word in asked if word in near]
    assert shown["question"] == " ".join(asked)


def test_a_question_is_read_behind_the_one_before_it() -> None:
    given_ = {"question": "and how long does it take?", "passage": "red it is. green it is.", "history": [{"question": "red", "answer": "no."}, {"question": "green", "answer": "yes."}]}
    ((_, shown),) = Shortlist(one_hot).narrow(TaskSpec("chat", quote=True, shortlist=1), [given_])
    assert shown == {**given_, "passage": "green it is."}


def test_of_a_book_no_sentence_is_looked_for() -> None:
    book = " ".join(f"{n} bottles." for n in range(MAX_SENTENCES + 1))
    with pytest.raises(ValueError, match=f"the passage has {MAX_SENTENCES + 1} sentences, {MAX_SENTENCES} at most"):
        Shortlist(one_hot).narrow(TaskSpec("chat", quote=True, shortlist=1), [{"question": "red", "passage": book}])


def test_the_encoder_finds_the_answer_in_other_words() -> None:
    passage = "A repair takes about ten days. We send a device on loan for locks and hubs. Repaired devices have a warranty of another year."
    ((_, shown),) = Shortlist(minilm().encode).narrow(TaskSpec("chat", quote=True, shortlist=1), [{"question": "how long until you have mended it?", "passage": passage}])
    assert shown["passage"] == "A repair takes about ten days."


def test_a_tool_without_examples_is_found_by_its_description() -> None:
    tools = (Tool("open_door", "Open the front door"), Tool("send_invoice", "Send a bill by mail"), Tool("play_music", "Play a song"))
    ((spec, _),) = Shortlist(minilm().encode).narrow(TaskSpec("tool", tools=tools, shortlist=1), [{"message": "I want to hear the Beatles"}])
    assert [tool.name for tool in spec.tools] == ["play_music"]
