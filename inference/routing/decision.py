"""From scores of clauses to the intents of a message. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from inference.routing.clauses import is_request
from runtime.project import Adapter
from schemas.events import RouteStatus

Route = tuple[str, str]
"""An adapter, and the tool of it whose utterances these are; "" for the adapter's own."""


def route_of(intent: str) -> Route:
    """The route of `adapter`, or of `adapter/tool`."""
    adapter, _, topic = intent.partition("/")
    return adapter, topic


def route_name(route: Route) -> str:
    """`adapter`, or `adapter/tool`."""
    return "/".join(filter(None, route))


def declared_routes(adapters: Mapping[str, Adapter]) -> dict[Route, tuple[str, ...]]:
    """The utterances that adapters declare, by route."""
    return {(name, topic): utterances for name, adapter in adapters.items() for topic, utterances in adapter.routes.items()}


@dataclass(frozen=True, slots=True)
class Match:
    """How well a clause fits a route: `score` is the probability that it is for it, `similarity` the cosine to `nearest`, an utterance of the route: of their vectors, or of
    their n-grams where these alone decided."""

    score: float
    similarity: float
    nearest: str


Scores = Mapping[Route, Match]


@dataclass(frozen=True, slots=True)
class Intent:
    """`text` is for `adapter`; `margin` is what `score` is above that of the next adapter. Without them nothing was chosen: the request names the adapter, or it sees every message."""

    adapter: str
    text: str
    score: float | None = None
    margin: float | None = None
    nearest: str | None = None
    always: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What a message is for. `ambiguous`: an intent is, by its margin; it goes to the best adapter all the same. `unavailable`: nobody could be asked. None: nobody was."""

    status: RouteStatus | None
    intents: tuple[Intent, ...]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Thresholds:
    """The score from which each adapter that has routes is chosen, the margin below which a choice is ambiguous, the cosine to an utterance from which a clause
    asks for what the utterance is for, whatever its form, and, where messages are scored as a whole, the score from which a clause that asks is an intent of its own
    beside another one."""

    score: Mapping[str, float]
    margin: float
    sure: float
    split: float = 0.0


def decide(adapters: Mapping[str, Adapter], thresholds: Thresholds, text: str, parts: Sequence[str], ranked: Sequence[Scores], whole: Scores | None = None, exclusive: bool = True) -> Decision:
    """The decision on a message from the scores of its clauses, and of the `whole` of it where routes are known from whole messages; `exclusive` where these are for
    one route at most.

    Clauses of one adapter are one intent, unless two or more of them ask for something.
    """
    always = [Intent(name, text, always=True) for name, adapter in adapters.items() if adapter.sees_every_message and name not in thresholds.score]
    over_all = [_over_all(name, thresholds, text, ranked) for name, adapter in adapters.items() if adapter.whole_message]
    found_in = [clause for part, scores in zip(parts, ranked, strict=True) for clause in _choices(adapters, thresholds, part, scores, exclusive)]
    intents = [intent for intent in over_all if intent is not None]
    if whole is not None and exclusive:
        apart = apart_from_others(found_in, thresholds)
        intents += [clause.intent(clause.text) for clause in apart] if len(apart) > 1 else [clause.intent(text) for clause in _choices(adapters, thresholds, text, whole, exclusive)]
        return Decision(_status(intents, thresholds), (*always, *intents))
    chosen: dict[str, list[Clause]] = {}
    for clause in found_in:
        chosen.setdefault(clause.route[0], []).append(clause)
    if whole is not None:
        told = {clause.route[0]: clause for clause in _choices(adapters, thresholds, text, whole, exclusive)}
        chosen = {name: found if len(found := chosen.get(name, [])) > 1 else [clause] for name, clause in told.items()}
    for found in chosen.values():
        asking = _asking(found, thresholds.sure)
        best = max(found, key=lambda clause: clause.match.score)
        if len(asking) > 1:
            intents += [clause.intent(clause.text) for clause in asking]
        else:
            # one request, with what else is said of it: the adapter needs the whole
            intents.append(best.intent(text if len(chosen) == 1 else " ".join(clause.text for clause in found)))
    return Decision(_status(intents, thresholds), (*always, *intents))


def _status(intents: Sequence[Intent], thresholds: Thresholds) -> RouteStatus:
    if not intents:
        return RouteStatus.UNKNOWN
    return RouteStatus.AMBIGUOUS if any(i.margin is not None and i.margin < thresholds.margin for i in intents) else RouteStatus.CLASSIFIED


@dataclass(frozen=True, slots=True)
class Clause:
    """A clause with the route that it is for."""

    text: str
    route: Route
    match: Match
    margin: float

    def intent(self, text: str) -> Intent:
        """What this clause says, as an intent of `text`."""
        return Intent(self.route[0], text, self.match.score, self.margin, self.match.nearest)


def _over_all(name: str, thresholds: Thresholds, text: str, ranked: Sequence[Scores]) -> Intent | None:
    """The intent of an adapter that answers messages as a whole, whatever else their clauses are about."""
    best = max((match for scores in ranked for (owner, _), match in scores.items() if owner == name), key=lambda match: match.score, default=None)
    return None if best is None or best.score < thresholds.score[name] else Intent(name, text, best.score, nearest=best.nearest)


def _choices(adapters: Mapping[str, Adapter], thresholds: Thresholds, text: str, scores: Scores, exclusive: bool) -> list[Clause]:
    """The best route of each adapter that is above its threshold; of adapters that exclude one another, that of the best."""
    best: dict[str, tuple[Route, Match]] = {}
    for route, match in scores.items():
        if not adapters[route[0]].whole_message and (route[0] not in best or match.score > best[route[0]][1].score):
            best[route[0]] = route, match
    fitting = sorted((found for found in best.items() if found[1][1].score >= thresholds.score[found[0]]), key=lambda found: -found[1][1].score)
    if not exclusive:
        return [Clause(text, route, match, match.score - thresholds.score[name]) for name, (route, match) in fitting]
    if not fitting:
        return []
    name, (route, match) = fitting[0]
    next_best = max((other.score for owner, (_, other) in best.items() if owner != name), default=0.0)
    return [Clause(text, route, match, match.score - next_best)]


def apart_from_others(found: Sequence[Clause], thresholds: Thresholds) -> list[Clause]:
    """The clauses that are intents of their own, where two or more are: they ask, and are scored so high that other clauses' reasons and circumstances are not."""
    return [clause for clause in found if clause.match.score >= thresholds.split and asks(clause.text, clause.match, thresholds.sure)]


def asks(clause: str, match: Match, sure: float) -> bool:
    """Whether a clause asks for something: by its form, or since it nearly is an utterance for it."""
    return is_request(clause) or match.similarity >= sure


def _asking(found: Sequence[Clause], sure: float) -> list[Clause]:
    """The clauses that ask: by their form, or since they nearly are an utterance for what no other clause asks for.

    "I forgot my password, reset it" asks once; "send the bill. My password is lost" twice.
    """
    by_form = [clause for clause in found if is_request(clause.text)]
    topics = {clause.route for clause in by_form}
    by_content: dict[Route, Clause] = {}
    for clause in found:
        if clause not in by_form and clause.match.similarity >= sure and clause.route not in topics:
            by_content.setdefault(clause.route, clause)
    return [clause for clause in found if clause in by_form or clause in by_content.values()]
