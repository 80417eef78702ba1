"""The router alone: which intents it finds, and how long it takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from inference.router import Router
from loom.bench.scores import Score, share
from runtime.project import Adapter

Row = Mapping[str, Any]


def wanted_intents(row: Row) -> frozenset[str]:
    """The intents of a row: `intents`, or its one `intent`; out of scope has none."""
    return frozenset(row["intents"] if "intents" in row else [row["intent"]] if row.get("intent") else [])


def routes_from(rows: Sequence[Row], threshold: float) -> dict[str, Adapter]:
    """Routes whose utterances are the rows of each intent; rows of several intents are left out."""
    utterances: dict[str, list[str]] = {}
    for row in rows:
        if len(wanted := wanted_intents(row)) == 1:
            utterances.setdefault(next(iter(wanted)), []).append(row["text"])
    return {name: Adapter(task="chat", result="chat", utterances=tuple(texts), threshold=threshold) for name, texts in utterances.items()}


async def route_scores(router: Router, rows: Sequence[Row]) -> list[Score]:
    """Exact sets of intents, the best intent, what is out of scope; milliseconds a request with embedding."""
    found, seconds = [], []
    for row in rows:
        began = time.perf_counter()
        intents = [intent for intent in await router.route(row["text"]) if not intent.always]
        seconds.append(time.perf_counter() - began)
        found.append(intents)
    wanted = [wanted_intents(row) for row in rows]
    sets = [frozenset(intent.adapter for intent in intents) for intents in found]
    best = [max(intents, key=lambda i: i.score).adapter if intents else None for intents in found]
    kinds = {
        "exact set of intents": [got == want for got, want in zip(sets, wanted, strict=True)],
        "exact set, one intent": [got == want for got, want in zip(sets, wanted, strict=True) if len(want) == 1],
        "exact set, several intents": [got == want for got, want in zip(sets, wanted, strict=True) if len(want) > 1],
        "best intent is right, one intent": [got in want for got, want in zip(best, wanted, strict=True) if len(want) == 1],
        "out of scope is unknown": [not got for got, want in zip(sets, wanted, strict=True) if not want],
        "in scope is known": [bool(got) for got, want in zip(sets, wanted, strict=True) if want],
    }
    scores = [share(what, "router alone", hits) for what, hits in kinds.items() if hits]
    ordered = sorted(seconds)
    for name, at in (("p50 ms", 0.5), ("p99 ms", 0.99)):
        scores.append(Score(name, "router alone", 1000 * ordered[min(len(ordered) - 1, int(at * len(ordered)))], None, None, len(ordered)))
    return scores
