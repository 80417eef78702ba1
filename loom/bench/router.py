"""`loom bench router`: which intents a router finds, what it holds for out of scope, how long it takes; beside semantic-router with its torch encoder on the same
rows, request by request in turns."""

from __future__ import annotations

import csv
import json
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from inference.routing.fit import Labelled, labelled, split
from inference.routing.make import Tuning, make_routes
from inference.routing.model import load_routes
from inference.routing.router import ENCODER_THREADS, Routes, routes_of
from loom.bench.scores import Score, load_rows, paired, share
from runtime.encoder import model_folder
from runtime.errors import SettingsError
from runtime.machine import cores
from runtime.project import Adapter, Project

FALSE_RATE = 0.02
MARGIN = 0.1
SEMANTIC_ROUTER = "semantic-router"
OURS = "router"
ONE_ALONE = "best route alone"
WARM_UP = 5
PEERS_VALIDATION = 500
"""Rows that the peer's threshold is fitted to: at ten milliseconds a row."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a router made of a row: the routes that it chose, the likeliest one and its score, and the seconds that this took."""

    chosen: frozenset[str]
    best: str | None
    score: float
    seconds: float


Side = Callable[[str], Found]


def intent_rows(paths: Sequence[Path], part: str) -> list[Labelled]:
    """Rows of JSON lines {text, intents}, or of the forms that CLINC150 (JSON, of which `part` and its out-of-scope rows are taken), BANKING77 (CSV) and NLU++ (JSON
    a fold) are published in.

    Raises:
        SettingsError, InvalidInput: a file can't be read, or has another form.
    """
    rows: list[Mapping[str, Any]] = []
    for path in paths:
        if path.suffix not in (".csv", ".json"):
            rows += load_rows(path)
            continue
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows += [{"text": row["text"], "intent": row["category"]} for row in csv.DictReader(file)] if path.suffix == ".csv" else _published(json.load(file), part)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SettingsError(f"{path} can't be read as rows of intents: {type(error).__name__}: {error}") from error
    return labelled(rows)


def _published(found: Any, part: str) -> list[Mapping[str, Any]]:
    if isinstance(found, list):
        return [{"text": row["text"], "intents": row.get("intents", [])} for row in found]
    return [{"text": text, "intents": [intent]} for text, intent in found[part]] + [{"text": text, "intents": []} for text, _ in found[f"oos_{part}"]]


def alone(project: Project) -> dict[str, Side]:
    """The router of a project."""
    return {OURS: ours(routes_of(project))}


def beside_semantic_router(train: Sequence[Labelled], validation: Sequence[Labelled], epochs: int, folder: Path | None) -> dict[str, Side]:
    """Our router, fitted to `train` or found in `folder`, and semantic-router on the same rows, its threshold fitted to the same validation rows."""
    if not validation:
        train, validation = split(train)
    with tempfile.TemporaryDirectory() as made:
        target = folder or Path(made) / "router"
        if not target.exists():
            make_routes({}, train, validation, target, Tuning(epochs) if epochs else None, FALSE_RATE, MARGIN)
        fitted, encoder = load_routes(target, min(ENCODER_THREADS, cores()))
    names = {name for name, _ in fitted.utterances.routes}
    routes = Routes({name: Adapter(task="chat", result="chat") for name in names}, encoder, fitted.scorer(), fitted.thresholds(MARGIN))
    peer = semantic_router(train)
    inside = [peer(row.text).score for row in [row for row in validation if row.routes][:PEERS_VALIDATION]]
    return {OURS: ours(routes), SEMANTIC_ROUTER: from_score(peer, float(np.quantile(inside, FALSE_RATE)))}


def ours(routes: Routes) -> Side:
    """Our router."""

    def route(text: str) -> Found:
        began = time.perf_counter()
        decision = routes.decide(text)
        seconds = time.perf_counter() - began
        best, score = routes.best(text)
        return Found(frozenset(intent.adapter for intent in decision.intents if not intent.always), best, score, seconds)

    return route


def semantic_router(rows: Sequence[Labelled]) -> Side:
    """semantic-router with its torch encoder on MiniLM, each row an utterance of its one route, the best route by its nearest utterance, however far that is."""
    from semantic_router import Route
    from semantic_router.encoders.huggingface import HuggingFaceEncoder
    from semantic_router.routers import IndexedRouter

    utterances: dict[str, list[str]] = {}
    for row in rows:
        if len(row.routes) == 1:
            utterances.setdefault(next(iter(row.routes))[0], []).append(row.text)
    routes = [Route(name=name, utterances=texts) for name, texts in utterances.items()]
    router = IndexedRouter(encoder=HuggingFaceEncoder(name=str(model_folder())), routes=routes, top_k=8, aggregation="max")

    def route(text: str) -> Found:
        began = time.perf_counter()
        choice = router(text, threshold=-1.0)
        seconds = time.perf_counter() - began
        name, score = choice.name, float(choice.confidence or 0.0)
        return Found(frozenset([name]), name, score, seconds)

    return route


def from_score(side: Side, threshold: float) -> Side:
    """`side` with routes chosen from a score on."""

    def route(text: str) -> Found:
        found = side(text)
        return replace(found, chosen=found.chosen if found.score >= threshold else frozenset())

    return route


def router_scores(sides: Mapping[str, Side], rows: Sequence[Labelled]) -> list[Score]:
    """Scores of each side on the same rows, in turns row by row; of the first one beside the others, paired."""
    found: dict[str, list[Found]] = {name: [] for name in sides}
    for row in rows[:WARM_UP]:
        for side in sides.values():
            side(row.text)
    for row in rows:
        for name, side in sides.items():
            found[name].append(side(row.text))
    wanted = [frozenset(name for name, _ in row.routes) for row in rows]
    scores: list[Score] = []
    first = next(iter(sides))
    for name, answers in found.items():
        kinds = _hits(answers, wanted)
        scores += [share(what, name, hits) for what, hits in kinds.items() if hits]
        if name != first:
            scores += [paired(what, f"{first} over {name}", mine, kinds[what]) for what, mine in _hits(found[first], wanted).items() if mine]
        scores += _milliseconds(name, answers)
    if any(len(want) > 1 for want in wanted):
        alone = [frozenset([answer.best] if answer.chosen and answer.best else []) for answer in found[first]]
        scores.append(share("exact set of intents", ONE_ALONE, [got == want for got, want in zip(alone, wanted, strict=True)]))
    return scores


def _hits(found: Sequence[Found], wanted: Sequence[frozenset[str]]) -> dict[str, list[bool]]:
    both = list(zip(found, wanted, strict=True))
    inside = [answer.score for answer, want in both if want]
    bar = float(np.quantile(inside, FALSE_RATE, method="lower")) if inside else 0.0
    return {
        "exact set of intents": [got.chosen == want for got, want in both],
        "exact set, one intent": [got.chosen == want for got, want in both if len(want) == 1],
        "exact set, several intents": [got.chosen == want for got, want in both if len(want) > 1],
        "best intent is right": [got.best in want for got, want in both if want],
        "out of scope is unknown": [not got.chosen for got, want in both if not want],
        f"out of scope scores below {1 - FALSE_RATE:.0%} of what is in scope": [got.score < bar for got, want in both if not want],
        "in scope is known": [bool(got.chosen) for got, want in both if want],
    }


def _milliseconds(name: str, found: Sequence[Found]) -> list[Score]:
    ordered = sorted(answer.seconds for answer in found)
    return [Score(what, name, 1000 * ordered[min(len(ordered) - 1, int(at * len(ordered)))], None, None, len(ordered)) for what, at in (("p50 ms", 0.5), ("p99 ms", 0.99))]
