"""A shortlist holds the nearest tools, what must stay, and nothing that was not on offer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from runtime.encoder import minilm
from runtime.tasks.samples import TaskSpec
from runtime.tasks.shortlist import Shortlist
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
    (spec,) = Shortlist(one_hot).narrow(TaskSpec("tool", tools=TOOLS, shortlist=count), [{"message": " ".join(said)}], [keep])
    named = [tool.name for tool in spec.tools]
    shown = max(count, len(keep))
    assert len(named) == min(shown, len(TOOLS))
    assert named == [word for word in WORDS if word in named]
    wanted = [*(word for word in said if word in keep), *(word for word in said if word not in keep)]
    assert set(named) == set(wanted[:shown])


def test_few_tools_and_other_tasks_stay_as_they_are() -> None:
    shortlist = Shortlist(one_hot)
    for spec, given_ in ((TaskSpec("tool", tools=TOOLS[:3], shortlist=4), {"message": "red"}), (TaskSpec("chat"), {"question": "red"})):
        assert shortlist.narrow(spec, [given_, given_]) == [spec, spec]


def test_a_tool_without_examples_is_found_by_its_description() -> None:
    tools = (Tool("open_door", "Open the front door"), Tool("send_invoice", "Send a bill by mail"), Tool("play_music", "Play a song"))
    (spec,) = Shortlist(minilm().encode).narrow(TaskSpec("tool", tools=tools, shortlist=1), [{"message": "I want to hear the Beatles"}])
    assert [tool.name for tool in spec.tools] == ["play_music"]
