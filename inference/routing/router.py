"""The router of a project: declared or fitted routes, read again when `loom.toml` changes."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import structlog

from inference.routing.clauses import clauses, heading
from inference.routing.decision import Decision, Intent, Match, Route, Scores, Thresholds, decide, declared_routes
from inference.routing.model import DESCRIPTION, load_routes
from inference.routing.scorers import Calibration, Nearest, Scorer, declared_utterances
from runtime.encoder import Encoder, quick_minilm
from runtime.errors import SettingsError
from runtime.machine import cores
from runtime.project import Adapter, Project, load_project
from runtime.tasks.prompt import one_line
from schemas.events import RouteStatus

log = structlog.get_logger()
UNFITTED = Calibration((8.1,), -4.0)
"""How probable a clause's nearest declared utterance is to be of the right route, by the cosine, where no validation rows told: as on CLINC150 with ten utterances a route."""
SURE = 0.75
LOOK_SECONDS = 2.0
ENCODER_THREADS = 2


class Router(Protocol):
    """Finds the intents of a message."""

    async def route(self, text: str) -> Decision:
        """The decision; its intents are in the order of the text."""


class Routes:
    """An encoder and a scorer: clause by clause, in one thread beside the event loop."""

    def __init__(self, adapters: Mapping[str, Adapter], encoder: Encoder, scorer: Scorer, thresholds: Thresholds) -> None:
        self._adapters, self._encoder, self._scorer, self._thresholds = adapters, encoder, scorer, thresholds

    async def route(self, text: str) -> Decision:
        return await asyncio.to_thread(self.decide, text)

    def best(self, text: str) -> tuple[str | None, float]:
        """The likeliest adapter for a message taken as one clause, and its score, whatever the threshold."""
        message = one_line(text)
        scores = self._at_once(message, clauses(text))
        if scores is None:
            (scores,) = self._scorer.score([message], self._encoder.encode([message]))
        found = max(scores.items(), key=lambda item: item[1].score, default=None)
        return (found[0][0], found[1].score) if found else (None, 0.0)

    def decide(self, text: str) -> Decision:
        """The decision on `text`."""
        message, parts = one_line(text), clauses(text)
        if (known := self._at_once(message, parts)) is not None:
            return decide(self._adapters, self._thresholds, message, parts, [known], known)
        asked = list(dict.fromkeys([*(form for part in parts for form in (part, heading(part))), *([message] if self._scorer.of_whole else [])]))
        scores = dict(zip(asked, self._scorer.score(asked, self._encoder.encode(asked)), strict=True))
        ranked = [_better(scores[part], scores[heading(part)]) for part in parts]
        return decide(self._adapters, self._thresholds, message, parts, ranked, scores[message] if self._scorer.of_whole else None, self._scorer.exclusive)

    def _at_once(self, message: str, parts: Sequence[str]) -> Scores | None:
        """The scores of a message that is one clause, where its words alone tell."""
        return self._scorer.at_once(message) if len(parts) == 1 else None


def _better(one: Scores, other: Scores) -> Scores:
    """The better match of each route: with a clause, or with what it asks without what it quotes."""
    if one is other:
        return one
    found: dict[Route, Match] = dict(one)
    for route, match in other.items():
        if route not in found or match.score > found[route].score:
            found[route] = match
    return found


class LiveRouter:
    """The routes of the project at `file`; `project` is what the process was started with, whose adapters it serves."""

    def __init__(self, file: Path, project: Project) -> None:
        self._file, self._project = file, project
        self._routes: Routes | None = None
        self._error = "routes are being loaded"
        self._seen: object = None

    async def route(self, text: str) -> Decision:
        """The decision; `unavailable`, with the reason, while there are no routes or the encoder fails."""
        if self._routes is not None:
            try:
                return await self._routes.route(text)
            except Exception as error:  # noqa: BLE001  whatever onnxruntime raises
                log.error("router.failed", error=str(error))
                self._error = f"the router failed: {error}"
        always = [Intent(name, one_line(text), always=True) for name, adapter in self._project.adapters.items() if adapter.sees_every_message]
        return Decision(RouteStatus.UNAVAILABLE, tuple(always), self._error)

    async def load(self) -> None:
        """Makes the routes of what the file says now.

        Raises:
            SettingsError: it is not valid, or the fitted routes that it names can't be used; the routes stay as they were.
        """
        seen = await asyncio.to_thread(_contents, self._file, self._project)
        try:
            self._routes = await asyncio.to_thread(self._make)
        finally:
            self._seen = seen

    async def run(self, stop: asyncio.Event) -> None:
        """Looks every two seconds whether the file, or the fitted routes, changed, until `stop` is set."""
        while not stop.is_set():
            try:
                await asyncio.wait_for(stop.wait(), LOOK_SECONDS)
            except TimeoutError:
                if await asyncio.to_thread(_contents, self._file, self._project) != self._seen:
                    await self._reload()

    async def _reload(self) -> None:
        try:
            await self.load()
        except SettingsError as error:
            log.error("router.kept", reason=str(error))
        else:
            log.info("router.reloaded")

    def _make(self) -> Routes:
        new = load_project(self._file)
        adapters = {name: adapter for name, adapter in new.adapters.items() if name in self._project.adapters}
        for name in sorted(new.adapters.keys() ^ self._project.adapters.keys()):
            log.warning("router.restart_needed", adapter=name, reason="adapters come and go with a restart")
        self._project = new.model_copy(update={"adapters": adapters})
        return routes_of(self._project)


def routes_of(project: Project) -> Routes:
    """The routes of a project: the fitted ones that `[router]` names, or those that its adapters declare.

    Raises:
        SettingsError: the fitted routes can't be used.
    """
    adapters, threads = project.adapters, min(ENCODER_THREADS, cores())
    if project.router.fitted is None:
        return unfitted_routes(adapters, quick_minilm(threads), project.router.margin)
    folder = project.root / project.router.fitted
    fitted, encoder = load_routes(folder, threads)
    owners = {adapter for adapter, _ in fitted.utterances.routes}
    if strange := sorted(owners - adapters.keys()):
        raise SettingsError(f"{folder}: the fitted routes know an adapter {strange[0]!r} that is not declared: fit them anew with loom routes fit")
    if forgotten := sorted(name for name, adapter in adapters.items() if adapter.routes and name not in owners):
        raise SettingsError(f"{folder}: the fitted routes don't know adapter {forgotten[0]!r}: fit them anew with loom routes fit")
    return Routes(adapters, encoder, fitted.scorer(), fitted.thresholds(project.router.margin))


def unfitted_routes(adapters: Mapping[str, Adapter], encoder: Encoder, margin: float) -> Routes:
    """Routes by the utterances that adapters declare, each adapter with its own threshold."""
    declared = declared_routes(adapters)
    utterances = declared_utterances(declared, encoder.encode([text for texts in declared.values() for text in texts]))
    thresholds = {name: float(UNFITTED(np.array([[adapter.threshold]]))[0]) for name, adapter in adapters.items() if adapter.routes}
    return Routes(adapters, encoder, Nearest(utterances, UNFITTED), Thresholds(thresholds, margin, SURE))


def _contents(file: Path, project: Project) -> object:
    """What routes depend on, as bytes; None for what is not there."""
    found: list[bytes | None] = []
    for path in (file, *([project.root / project.router.fitted / DESCRIPTION] if project.router.fitted else [])):
        try:
            found.append(path.read_bytes())
        except OSError:
            found.append(None)
    return found
