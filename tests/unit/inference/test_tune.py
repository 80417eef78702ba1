"""An encoder that is taught to tell routes apart."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from inference.routing.fit import Labelled
from inference.routing.make import Tuning, make_routes
from inference.routing.model import load_routes
from runtime.encoder import GRAPH, TOKENIZER
from runtime.errors import InvalidInput

COLOURS, PLACES = ["red", "green", "blue", "black"], ["north", "south", "east", "west"]
FILLERS = [f"w{number}" for number in range(40)]


def small_encoder(folder: Path) -> str:
    """A DistilBERT of 32 dimensions that knows nothing, with a tokenizer of whole words."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import DistilBertConfig, DistilBertModel, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", *COLOURS, *PLACES, *FILLERS]
    tokenizer = Tokenizer(models.WordLevel({word: at for at, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    DistilBertModel(DistilBertConfig(vocab_size=len(words), dim=32, n_heads=2, n_layers=1, hidden_dim=64, max_position_embeddings=128)).save_pretrained(folder)
    return str(folder)


def rows(count: int, seed: int) -> list[Labelled]:
    rng = np.random.default_rng(seed)
    kinds = [(COLOURS, {("colour", "")}), (PLACES, {("place", "")}), (FILLERS, set())]
    found = []
    for number in range(count):
        words, routes = kinds[number % 3]
        found.append(Labelled(" ".join([*rng.choice(FILLERS, size=3), rng.choice(words)]), frozenset(routes)))
    return found


def test_an_encoder_of_any_family_learns_routes_that_it_did_not_know(tmp_path: Path) -> None:
    model, losses = small_encoder(tmp_path / "model"), []
    fitted = make_routes({}, rows(600, 0), rows(300, 1), tmp_path / "router", Tuning(30, model), 0.02, 0.1, lambda step, steps, loss: losses.append((step, steps, loss)))
    assert fitted.report.best_is_right == pytest.approx(1.0, abs=0.02)
    assert losses[-1][0] == losses[-1][1] == len(losses)
    again, encoder = load_routes(tmp_path / "router")
    assert {path.name for path in (tmp_path / "router").iterdir()} >= {GRAPH, TOKENIZER}
    texts = ["w1 w2 w3 red", "w4 w5 w6 west"]
    both = encoder.encode(texts)
    assert np.allclose(both[1], encoder.encode(texts[1:])[0]), "a vector depends on what is encoded beside it"
    assert [max(scores, key=lambda route: scores[route].score) for scores in again.scorer().score(texts, both)] == [("colour", ""), ("place", "")]


def test_what_is_no_encoder_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="nothing-here is no encoder that transformers can read"):
        make_routes({}, rows(30, 0), rows(30, 1), tmp_path / "router", Tuning(1, str(tmp_path / "nothing-here")), 0.02, 0.1)
