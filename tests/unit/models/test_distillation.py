"""What the base is taught beside the next token: sentence vectors, at the right places."""

from __future__ import annotations

import random

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from models.base.build import train
from models.base.build.sentences import SAME_WORDS, SHORTEST, runs, typed

TEXTS = st.text("abcdef ABC.?!", min_size=SHORTEST, max_size=40)


def test_a_sentence_that_ends_without_an_answer_teaches_no_next_token() -> None:
    window = torch.tensor([[train.BOS, 7, train.ASSISTANT, train.BOS, 7, train.ASSISTANT, 9, 2]])
    assert train.wanted(window).tolist() == [[7, train.ASSISTANT, train.IGNORED, 7, train.ASSISTANT, 9, 2]]
    assert window[0, 3] == train.BOS  # the window itself stays whole


def test_vectors_are_those_of_their_places() -> None:
    vectors = np.eye(4, train.VECTOR, dtype=np.float16)
    at, truth = train.taught(torch.tensor([[-1, 2, -1, 0], [3, -1, -1, 1]]), vectors)
    assert at.tolist() == [1, 3]  # flat places in (2, 3): the last column is only ever predicted
    assert np.array_equal(truth.numpy(), vectors[[2, 3]].astype(np.float32))


def test_the_model_gives_vectors_where_it_is_asked_and_saves_none_of_the_projection() -> None:
    model = train.Model().bfloat16()
    cos, sin = train.rotary(torch.device("cpu"))
    window = torch.randint(6, train.VOCABULARY, (1, train.CONTEXT))
    loss, vectors = model(window, window, cos, sin, torch.tensor([0, 5]))
    _, alone = model(window, window, cos, sin, torch.tensor([5]))
    assert loss.isfinite() and vectors.shape == (2, train.VECTOR)
    assert torch.allclose(vectors[1].float(), alone[0].float(), atol=1e-2)
    assert not [name for name in train.named_weights(model) if "vector" in name]


def test_a_step_reads_the_same_windows_when_it_is_run_again() -> None:
    data = {name: np.arange(2000, dtype=np.uint16) for name in train.MIX}
    targets = np.arange(2000, dtype=np.int32)
    first, again, other = (train.batch_at(step, data, targets, 8) for step in (3, 3, 4))
    assert torch.equal(first[0], again[0]) and torch.equal(first[1], again[1]) and not torch.equal(first[0], other[0])
    assert all(torch.equal(row, marks) or (marks == -1).all() for row, marks in zip(*first, strict=True))


@given(TEXTS, st.integers(0, 10_000))
def test_slips_are_small(text: str, seed: int) -> None:
    said = typed(text, random.Random(seed))
    assert said == typed(text, random.Random(seed))
    assert len(text.rstrip(".?!")) - 1 <= len(said) <= len(text) + 1


@given(st.lists(st.sampled_from("one two three four".split()), max_size=12), st.lists(st.sampled_from("One two".split()), max_size=4))
def test_what_is_held_out_is_known_by_runs_of_words_wherever_they_stand(words: list[str], around: list[str]) -> None:
    held = runs(" ".join(words))
    assert bool(held) == (len(words) >= SAME_WORDS)
    assert held <= runs(" ".join([*around, *words, *around]).upper())
