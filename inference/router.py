"""Which adapters a message is for: every intent with its score, or none. semantic-router behind our own port."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from inference.clauses import clauses, is_request
from runtime.project import Adapter
from runtime.tasks.prompt import one_line


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
        from semantic_router import Route
        from semantic_router.encoders import DenseEncoder
        from semantic_router.routers import IndexedRouter

        class Encoder(DenseEncoder):
            def __call__(self, docs: list[Any]) -> list[list[float]]:
                rows: list[list[float]] = encoder.encode(docs).tolist()
                return rows

            async def acall(self, docs: list[Any]) -> list[list[float]]:
                return self(docs)

        self._adapters = adapters
        routes = [Route(name=name, utterances=list(a.routes)) for name, a in adapters.items() if a.routes]
        self._router = IndexedRouter(encoder=Encoder(name="minilm"), routes=routes, top_k=8, aggregation="max") if routes else None

    async def route(self, text: str) -> list[Intent]:
        parts = clauses(text)
        ranked = await asyncio.to_thread(lambda: [self._rank(part) for part in parts])
        return decide(self._adapters, one_line(text), parts, ranked)

    def _rank(self, text: str) -> dict[str, float]:
        """The cosine of the nearest utterance of each route."""
        if self._router is None:
            return {}
        choices = self._router(text, limit=None, threshold=-1.0)
        return {choice.name: float(choice.confidence) for choice in (choices if isinstance(choices, list) else [choices]) if choice.name}


def decide(adapters: Mapping[str, Adapter], text: str, parts: Sequence[str], ranked: Sequence[Mapping[str, float]]) -> list[Intent]:
    """The intents of a message from the scores of its clauses. Pure.

    Clauses of one route are one intent, unless two or more of them ask for something by their form.
    """
    intents = [Intent(name, text, 1.0, always=True) for name, a in adapters.items() if not a.routes]
    for name, adapter in adapters.items():
        if adapter.routes and adapter.whole_message and (best := max((scores.get(name, -1.0) for scores in ranked), default=-1.0)) >= adapter.threshold:
            intents.append(Intent(name, text, best))
    chosen: dict[str, list[tuple[str, float]]] = {}
    for part, scores in zip(parts, ranked, strict=True):
        fitting = {name: score for name, score in scores.items() if not adapters[name].whole_message and score >= adapters[name].threshold}
        if fitting:
            name = max(fitting, key=fitting.__getitem__)
            chosen.setdefault(name, []).append((part, fitting[name]))
    for name, found in chosen.items():
        requests = [(part, score) for part, score in found if is_request(part)]
        if len(requests) > 1:
            intents += [Intent(name, part, score) for part, score in requests]
        else:
            # one request, with what else is said of it: the adapter needs the whole
            own = text if len(chosen) == 1 else " ".join(part for part, _ in found)
            intents.append(Intent(name, own, max(score for _, score in found)))
    return intents
