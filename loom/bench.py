"""Benchmarks against a running system over HTTP."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx

from runtime.errors import SettingsError
from trainers.evaluate import macro_f1

PARALLEL = 8


@dataclass(frozen=True, slots=True)
class Score:
    """A share with its 95 % interval over `count` cases, or an F1 without."""

    what: str
    mode: str
    value: float
    low: float | None
    high: float | None
    count: int

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)


def share(what: str, mode: str, hits: Sequence[bool]) -> Score:
    """The share of `hits` with its Wilson interval (Wilson 1927)."""
    n, z = len(hits), 1.96
    p = sum(hits) / n if n else 0.0
    middle = (p + z * z / (2 * n)) / (1 + z * z / n) if n else 0.0
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n) if n else 1.0
    return Score(what, mode, p, max(0.0, middle - half), min(1.0, middle + half), n)


async def quality(test: Path, url: str, classifier: str, tool: str) -> list[Score]:
    """Scores of every mode that the rows of `test` allow. Raises SettingsError when nothing serves at `url`."""
    rows = [json.loads(line) for line in test.read_text(encoding="utf-8").splitlines() if line.strip()]
    async with httpx.AsyncClient(base_url=url, timeout=120) as http:
        try:
            (await http.get("/readyz")).raise_for_status()
        except httpx.HTTPError as error:
            raise SettingsError(f"nothing serves at {url} ({error}): start it with `loom up`") from error
        return [s for make in (_labels, _calls) for s in await make(http, rows, classifier, tool)]


async def _all(http: httpx.AsyncClient, bodies: Sequence[tuple[str, dict[str, Any]]]) -> list[Any]:
    """Answers in order, a few at a time."""
    gate = asyncio.Semaphore(PARALLEL)

    async def one(path: str, body: dict[str, Any]) -> Any:
        async with gate:
            reply = await http.post(path, json=body)
            reply.raise_for_status()
            return reply.json()

    return list(await asyncio.gather(*(one(path, body) for path, body in bodies)))


async def _labels(http: httpx.AsyncClient, rows: Sequence[dict[str, Any]], classifier: str, tool: str) -> list[Score]:
    rows = [row for row in rows if "label" in row]
    scores = []
    for mode, adapter in (("adapter alone", classifier), ("base alone", f"{classifier}@base")) if rows else ():
        answers = [a["output"] for a in await _all(http, [("/generate", {"adapter_id": adapter, "prompt": row["text"]}) for row in rows])]
        scores.append(share("label is right", mode, [a == row["label"] for a, row in zip(answers, rows, strict=True)]))
        f1 = macro_f1(answers, [row["label"] for row in rows])
        scores.append(Score("label macro-F1", mode, f1, None, None, len(rows)))
    return scores


async def _calls(http: httpx.AsyncClient, rows: Sequence[dict[str, Any]], classifier: str, tool: str) -> list[Score]:
    rows = [row for row in rows if "calls" in row]
    if not rows:
        return []
    single = [row for row in rows if len(row["calls"]) == 1]
    outside = [row for row in rows if not row["calls"]]
    routed = [[r["output"] for r in a["results"] if r["adapter"] == tool] for a in await _all(http, [("/ask", {"text": row["text"]}) for row in rows])]
    by_id = {id(row): [call for call in calls if call] for row, calls in zip(rows, routed, strict=True)}
    asked = {id(row): bool(calls) for row, calls in zip(rows, routed, strict=True)}
    scores = []
    for mode, adapter in (("adapter alone", tool), ("base alone", f"{tool}@base")):
        alone = dict(zip(map(id, single + outside), await _all(http, [("/generate", {"adapter_id": adapter, "prompt": row["text"]}) for row in single + outside]), strict=True))
        made = {key: [a["output"]] if a["output"] else [] for key, a in alone.items()}
        scores += _judged(mode, single, outside, made)
    scores += _judged("router and adapter", single, outside, by_id)
    several = [row for row in rows if len(row["calls"]) > 1]
    scores.append(share("all calls of two intents", "router and adapter", [by_id[id(row)] == row["calls"] for row in several]))
    scores.append(share("request reaches the tool adapter", "router alone", [asked[id(row)] for row in single]))
    scores.append(share("out of scope is kept from it", "router alone", [not asked[id(row)] for row in outside]))
    return scores


def _judged(mode: str, single: Sequence[dict[str, Any]], outside: Sequence[dict[str, Any]], made: dict[int, list[Any]]) -> list[Score]:
    def hits(right: Callable[[dict[str, Any], dict[str, Any]], bool]) -> list[bool]:
        return [len(made[id(row)]) == 1 and right(made[id(row)][0], row["calls"][0]) for row in single]

    return [
        share("right tool", mode, hits(lambda got, want: bool(got["tool"] == want["tool"]))),
        share("right tool, all arguments", mode, hits(lambda got, want: got == want)),
        share("out of scope: no call", mode, [not made[id(row)] for row in outside]),
    ]
