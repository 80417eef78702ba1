"""Fitted routes from rows to a folder: teaches the encoder where that is asked for, fits, saves."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from inference.routing.decision import Route
from inference.routing.fit import Fitted, Labelled, fit
from inference.routing.model import save_routes
from inference.routing.tune import Hear, tune
from runtime.encoder import GRAPH, TOKENIZER, Encoder, model_folder, quick_minilm
from runtime.machine import cores


@dataclass(frozen=True, slots=True)
class Tuning:
    """How an encoder is taught; `encoder` is a folder or a name on the hub, MiniLM when None."""

    epochs: int
    encoder: str | None = None
    seed: int = 0


def make_routes(
    utterances: Mapping[Route, Sequence[str]], train: Sequence[Labelled], validation: Sequence[Labelled], folder: Path, tuning: Tuning | None, false_rate: float, margin: float, hear: Hear | None = None
) -> Fitted:
    """Fits routes (see `fit`) and writes them to `folder`. Raises InvalidInput."""
    threads = cores()
    with tempfile.TemporaryDirectory() as made:
        tuned = Path(made) if tuning else None
        if tuned is None:
            encoder = quick_minilm(threads)
        else:
            assert tuning is not None
            tune(tuning.encoder or str(model_folder()), train, tuned, tuning.epochs, tuning.seed, hear)
            encoder = Encoder(tuned / GRAPH, tuned / TOKENIZER, batch=1, threads=threads)
        fitted = fit(utterances, train, validation, encoder.encode, false_rate, margin)
        save_routes(fitted, folder, tuned)
    return fitted
