"""Which adapters a message is for: every intent with its score, or none. semantic-router behind our own port."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from inference.clauses import clauses, heading, is_request
from runtime.project import Adapter
from runtime.tasks.prompt import one_line

SURE = 0.75
"""Cosine to a declared utterance from which a clause asks for what the utterance is for, whatever its form."""
Route = tuple[str, str]
"""An adapter, and the tool of it whose utterances these are; "" for the adapter's own."""


@dataclass(frozen=True, slots=True)
class Intent:
    """`text` is for `adapter`, with the cosine that decided it; 1.0 for adapters that see every message."""

    adapter: str
    text: str
    score: float
    always: bool = False


class Router(Protocol):
    """Finds the intents of a message."""

    async def route(self, text: str) -> list[Intent]:
        """The intents in the order of the text; empty when nothing fits."""


class SemanticRouter:
    """Clause by clause the best route above its threshold. Adapters without utterances see every message whole."""

    def __init__(self, adapters: Mapping[str, Adapter], encoder: Any) -> None:
        import semantic_router
        from semantic_router.encoders import DenseEncoder
        from semantic_router.routers import IndexedRouter

        class Encoder(DenseEncoder):
            def __call__(self, docs: list[Any]) -> list[list[float]]:
                rows: list[list[float]] = encoder.encode(docs).tolist()
                return rows

            async def acall(self, docs: list[Any]) -> list[list[float]]:
                return self(docs)

        self._adapters = adapters
        declared = {(name, topic): utterances for name, a in adapters.items() for topic, utterances in a.routes.items()}
        self._routes = {str(i): route for i, route in enumerate(declared)}
        routes = [semantic_router.Route(name=str(i), utterances=list(utterances)) for i, utterances in enumerate(declared.values())]
        self._router = IndexedRouter(encoder=Encoder(name="minilm"), routes=routes, top_k=8, aggregation="max") if routes else None

    async def route(self, text: str) -> list[Intent]:
        parts = clauses(text)
        ranked = await asyncio.to_thread(lambda: [self._rank(part) for part in parts])
        return decide(self._adapters, one_line(text), parts, ranked)

    def _rank(self, text: str) -> dict[Route, float]:
        """The cosine of the nearest utterance of each route that has one among the nearest: to a clause, or to what it asks without what it quotes."""
        if self._router is None:
            return {}
        scores: dict[Route, float] = {}
        for part in dict.fromkeys((text, heading(text))):
            choices = self._router(part, limit=None, threshold=-1.0)
            for choice in choices if isinstance(choices, list) else [choices]:
                if choice.name:
                    route = self._routes[choice.name]
                    scores[route] = max(scores.get(route, -1.0), float(choice.confidence))
        return scores


def decide(adapters: Mapping[str, Adapter], text: str, parts: Sequence[str], ranked: Sequence[Mapping[Route, float]]) -> list[Intent]:
    """The intents of a message from the scores of its clauses. Pure.

    Clauses of one adapter are one intent, unless two or more of them ask for something.
    """
    intents = [Intent(name, text, 1.0, always=True) for name, a in adapters.items() if a.sees_every_message]
    for name, adapter in adapters.items():
        if adapter.routes and adapter.whole_message:
            best = max((score for scores in ranked for (owner, _), score in scores.items() if owner == name), default=-1.0)
            if best >= adapter.threshold:
                intents.append(Intent(name, text, best))
    chosen: dict[str, list[_Clause]] = {}
    for part, scores in zip(parts, ranked, strict=True):
        fitting = {route: score for route, score in scores.items() if not adapters[route[0]].whole_message and score >= adapters[route[0]].threshold}
        if fitting:
            name, topic = max(fitting, key=fitting.__getitem__)
            chosen.setdefault(name, []).append(_Clause(part, topic, fitting[name, topic]))
    for name, found in chosen.items():
        asking = _asking(found)
        if len(asking) > 1:
            intents += [Intent(name, clause.text, clause.score) for clause in asking]
        else:
            # one request, with what else is said of it: the adapter needs the whole
            own = text if len(chosen) == 1 else " ".join(clause.text for clause in found)
            intents.append(Intent(name, own, max(clause.score for clause in found)))
    return intents


@dataclass(frozen=True, slots=True)
class _Clause:
    text: str
    topic: str
    score: float


def _asking(found: Sequence[_Clause]) -> list[_Clause]:
    """The clauses that ask: by their form, or since they nearly are an utterance for what no other clause asks for.

    "I forgot my password, reset it" asks once; "send the bill. My password is lost" twice.
    """
    by_form = [clause for clause in found if is_request(clause.text)]
    topics = {clause.topic for clause in by_form}
    by_content: dict[str, _Clause] = {}
    for clause in found:
        if clause not in by_form and clause.score >= SURE and clause.topic not in topics:
            by_content.setdefault(clause.topic, clause)
    return [clause for clause in found if clause in by_form or clause in by_content.values()]
