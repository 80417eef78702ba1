"""What adapters answer to a test, over HTTP: alone, behind the router, and beside the base and simple baselines."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from loom.bench.baselines import (
    MINILM,
    TFIDF,
    constant,
    entities_by_minilm,
    entities_by_tfidf,
    minilm_head,
    nearest_by_minilm,
    nearest_by_tfidf,
    tfidf,
    tools_by_minilm,
    tools_by_tfidf,
)
from loom.bench.scores import Score, paired, share
from loom.bench.whole import Whole
from runtime.encoder import minilm
from runtime.errors import SettingsError
from runtime.tasks.chat import sentences
from runtime.tasks.extract import in_one_line
from runtime.tasks.samples import TaskSpec
from runtime.tasks.shortlist import Shortlist
from runtime.tasks.tool import is_same
from trainers.evaluate import entity_f1, macro_f1, spans, token_f1
from trainers.faults import ast_match

PARALLEL = 32
NO_CALL = "no call"
CONTEXT = {"user_id": "current"}
"""What comes with a message that says nothing else, as over HTTP."""
NEARLY = 0.8
"""The overlap of words from which an answer is the one that was wanted."""
Row = Mapping[str, Any]
Hit = Callable[[Any, Row], bool]


@dataclass(frozen=True, slots=True)
class Names:
    """Which adapter is asked for what, and the labels that are declared for two of them."""

    classifier: str
    tool: str
    entities: str
    chat: str
    labels: tuple[str, ...] = ()
    types: tuple[str, ...] = ()


async def quality(rows: Sequence[Row], train: Sequence[Row], url: str, names: Names, whole: Whole | None = None, key: str | None = None) -> list[Score]:
    """Scores of every kind that `rows` allow; baselines are trained on `train`, and so is `whole`. `key` is asked for where the system has keys.

    A test may bring its own labels, entity types and tools: then these are on offer instead of the declared ones.

    Raises:
        SettingsError: nothing serves at `url`, or it does not have the adapters, or does not know the key.
    """
    async with httpx.AsyncClient(base_url=url, timeout=300, headers={"Authorization": f"Bearer {key}"} if key else {}) as http:
        asker = Asker(http)
        try:
            (await http.get("/healthz")).raise_for_status()
            scores = [s for make in (labels, calls, entities, answers) for s in await make(asker, rows, train, names, whole)]
            return scores + (whole.scores if whole else [])
        except httpx.HTTPStatusError as error:
            raise SettingsError(f"{url}: {error.response.text}") from error
        except httpx.HTTPError as error:
            raise SettingsError(f"nothing answers at {url} ({type(error).__name__} {error}): is it up? see `loom status`") from error


class Asker:
    """Asks a few at a time, no faster than it is told to, and answers in order."""

    def __init__(self, http: httpx.AsyncClient) -> None:
        self._http = http
        self._gate = asyncio.Semaphore(PARALLEL)

    async def one(self, adapter: str, rows: Sequence[Row], offer: Callable[[Row], Mapping[str, Any]]) -> list[Any]:
        """The output of `adapter` for each row, None where there is none."""
        return [a["output"] for a in await self._all([("/generate", {"adapter_id": adapter, "prompt": row["text"], **offer(row)}) for row in rows])]

    async def routed(self, rows: Sequence[Row]) -> list[list[dict[str, Any]]]:
        """All results for each row."""
        return [a["results"] for a in await self._all([("/ask", {"text": row["text"], **_comes_with(row)}) for row in rows])]

    async def _all(self, bodies: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Any]:
        async def post(path: str, body: Mapping[str, Any]) -> Any:
            async with self._gate:
                while (reply := await self._http.post(path, json=body)).status_code == httpx.codes.TOO_MANY_REQUESTS:  # noqa: ASYNC110 - it says when to come again
                    await asyncio.sleep(_wait_seconds(reply))
                reply.raise_for_status()
                return reply.json()

        return list(await asyncio.gather(*(post(path, body) for path, body in bodies)))


def _wait_seconds(reply: httpx.Response) -> float:
    """What Retry-After says in seconds; one where a proxy leaves it out, or says a date (RFC 9110, 10.2.3)."""
    said = reply.headers.get("retry-after", "")
    return float(said) if said.isdecimal() else 1.0


async def labels(asker: Asker, rows: Sequence[Row], train: Sequence[Row], names: Names, whole: Whole | None = None) -> list[Score]:
    """Rows with `label`: accuracy and macro-F1."""
    rows, train = [row for row in rows if "label" in row], [row for row in train if "label" in row]
    if not rows:
        return []
    spell = _spelling([row["label"] for row in rows], names.labels)
    wanted, train = [spell[row["label"]] for row in rows], [{**row, "label": spell.get(row["label"], row["label"])} for row in train]
    choices = names.labels if set(wanted) <= set(names.labels) else sorted(set(wanted))
    made = {mode: await asker.one(adapter, rows, lambda _: {"labels": choices}) for mode, adapter in (("adapter alone", names.classifier), ("base alone", f"{names.classifier}@base"))}
    if train:
        made["constant"] = constant([row["label"] for row in train], len(rows))
        known, asked = ([row["text"] for row in part] for part in (train, rows))
        made[TFIDF] = await asyncio.to_thread(tfidf, known, [row["label"] for row in train], asked)
        made[MINILM] = await asyncio.to_thread(minilm_head, known, [row["label"] for row in train], asked)
        if whole and choices == names.labels:
            made |= await asyncio.to_thread(whole.answers, names.classifier, train, [{**row, "label": label} for row, label in zip(rows, wanted, strict=True)])
    hits = {mode: [a == w for a, w in zip(answers, wanted, strict=True)] for mode, answers in made.items()}
    scores = [share("label is right", mode, right) for mode, right in hits.items()]
    scores += [Score("label macro-F1", mode, macro_f1(answers, wanted), None, None, len(rows)) for mode, answers in made.items()]
    return scores + [paired("label is right", f"adapter over {mode}", hits["adapter alone"], hits[mode]) for mode in made if mode != "adapter alone"]


def _spelling(given: Sequence[str], declared: Sequence[str]) -> dict[str, str]:
    """Each label as it is declared, where all of them are declared but for their case; else as it is."""
    known = {label.casefold(): label for label in declared}
    return {label: known[label.casefold()] if all(g.casefold() in known for g in given) else label for label in given}


def right_tool(got: Any, row: Row) -> bool:
    """The tool of the row, or none where it has none."""
    return bool((got or {}).get("tool") == (_only(row["calls"]) or {}).get("tool"))


def right_call(got: Any, row: Row) -> bool:
    """The row's call with the same arguments, or with those that it accepts."""
    want = _only(row["calls"])
    return is_same(got, want) or (want is not None and "accepts" in row and ast_match(got, want["tool"], row["accepts"]))


def _comes_with(row: Row) -> Mapping[str, Any]:
    return {name: row[name] for name in ("context", "tools") if name in row}


async def calls(asker: Asker, rows: Sequence[Row], train: Sequence[Row], names: Names, whole: Whole | None = None) -> list[Score]:
    """Rows with `calls`: right tool, right tool with all arguments, no call for what is out of scope, several calls. `accepts` may name the right values of each argument, as BFCL does."""
    rows = [{"context": CONTEXT, **row} for row in rows if "calls" in row]
    single, outside = [row for row in rows if len(row["calls"]) == 1], [row for row in rows if not row["calls"]]
    both = [*single, *outside]
    if not rows:
        return []
    made: dict[str, list[Any]] = {
        mode: await asker.one(adapter, both, _comes_with) for mode, adapter in (("adapter alone", names.tool), ("base alone", f"{names.tool}@base"))
    }
    scores: list[Score] = []
    known = [row for row in train if "calls" in row]
    if not any("tools" in row for row in rows):  # the router sends to declared tools alone
        routed = dict(zip(map(id, rows), ([r for r in results if r["adapter"] == names.tool] for results in await asker.routed(rows)), strict=True))
        made["router and adapter"] = [_only([r["output"] for r in routed[id(row)] if r["output"]]) for row in both]
        scores.append(share("request reaches the tool adapter", "router alone", [bool(routed[id(row)]) for row in single]))
        scores.append(share("out of scope is kept from it", "router alone", [not routed[id(row)] for row in outside]))
        if several := [row for row in rows if len(row["calls"]) > 1]:
            scores.append(share("all calls of two intents", "router and adapter", [[r["output"] for r in routed[id(row)] if r["output"]] == row["calls"] for row in several]))
    made |= await asyncio.to_thread(_baselines, both, known)
    if whole and known:
        made |= await asyncio.to_thread(whole.answers, names.tool, known, both)
    return scores + _judged(made, both, len(single))


def _only(found: Sequence[Any]) -> Any:
    """The one call; two are as wrong as another tool."""
    return found[0] if len(found) == 1 else {"tool": f"{len(found)} calls"} if found else None


def _baselines(rows: Sequence[Row], train: Sequence[Row]) -> dict[str, list[Any]]:
    """Calls without arguments, since linear models copy none: the commonest tool, and what they choose of the declared ones or of those that a row brings."""
    if not train:
        return {}
    if any("tools" in row for row in rows):
        taught = [row for row in train if "tools" in row]
        chosen = {TFIDF: tools_by_tfidf(taught, rows), MINILM: tools_by_minilm(taught, rows)} if all("tools" in row for row in rows) else {}
        return {mode: [name and {"tool": name} for name in found] for mode, found in chosen.items()}
    names = [row["calls"][0]["tool"] if row["calls"] else NO_CALL for row in train]
    known, asked = ([row["text"] for row in part] for part in (train, rows))
    guesses = {"constant": constant(names, len(rows)), TFIDF: tfidf(known, names, asked), MINILM: minilm_head(known, names, asked)}
    return {mode: [None if name == NO_CALL else {"tool": name} for name in found] for mode, found in guesses.items()}


def _judged(made: Mapping[str, Sequence[Any]], rows: Sequence[Row], single: int) -> list[Score]:
    """Scores of each mode; the first `single` rows want a call, the others none."""

    def hits(mode: str, right: Hit, cases: slice) -> list[bool]:
        return [right(got, row) for got, row in zip(made[mode][cases], rows[cases], strict=True)]

    kinds: list[tuple[str, Hit, slice]] = [("right tool", right_tool, slice(single)), ("right tool, all arguments", right_call, slice(single)), ("out of scope: no call", right_tool, slice(single, None))]
    kinds = [kind for kind in kinds if rows[kind[2]]]
    scores = [share(what, mode, hits(mode, right, cases)) for what, right, cases in kinds for mode in made]
    return scores + [
        paired(what, f"adapter over {mode}", hits("adapter alone", right, cases), hits(mode, right, cases)) for what, right, cases in kinds[:2] for mode in made if mode not in ("adapter alone", "router and adapter")
    ]


async def entities(asker: Asker, rows: Sequence[Row], train: Sequence[Row], names: Names, whole: Whole | None = None) -> list[Score]:
    """Rows with `entities`: micro F1 of exact spans, and texts with all spans right."""
    rows = [row for row in rows if "entities" in row]
    if not rows:
        return []
    spell = _spelling([e["label"] for row in rows for e in row["entities"]], names.types)
    wanted = [[in_one_line(row["text"], e) | {"label": spell[e["label"]]} for e in row["entities"]] for row in rows]
    types = set(spell.values())
    offer = {} if types <= set(names.types) else {"labels": sorted(types)}
    made = {mode: [a or [] for a in await asker.one(adapter, rows, lambda _: offer)] for mode, adapter in (("adapter alone", names.entities), ("base alone", f"{names.entities}@base"))}
    known = [row for row in train if "entities" in row]
    if known and not offer:
        for mode, model in ((TFIDF, entities_by_tfidf), (MINILM, entities_by_minilm)):
            made[mode] = [[e | {"label": spell.get(e["label"], e["label"])} for e in found] for found in await asyncio.to_thread(model, known, rows)]
    if whole and known and not offer:
        spelled = [{**row, "entities": [e | {"label": spell[e["label"]]} for e in row["entities"]]} for row in rows]
        made |= {mode: [a or [] for a in found] for mode, found in (await asyncio.to_thread(whole.answers, names.entities, known, spelled)).items()}
    exact = {mode: [spans(a) == spans(w) for a, w in zip(answers, wanted, strict=True)] for mode, answers in made.items()}
    scores = [Score("entity F1", mode, entity_f1(answers, wanted), None, None, len(rows)) for mode, answers in made.items()]
    scores += [share("all entities right", mode, right) for mode, right in exact.items()]
    return scores + [paired("all entities right", f"adapter over {mode}", exact["adapter alone"], exact[mode]) for mode in made if mode != "adapter alone"]


async def answers(asker: Asker, rows: Sequence[Row], train: Sequence[Row], names: Names, whole: Whole | None = None) -> list[Score]:
    """Rows with an `answer`, and the `passage` that it stands in or none: mean overlap of words, and the answers that overlap nearly whole."""
    rows = [row for row in rows if "answer" in row]
    if not rows:
        return []

    def given(row: Row) -> Mapping[str, Any]:
        return {"context": {**CONTEXT, **({"passage": row["passage"]} if "passage" in row else {}), **({"history": json.dumps(row["history"])} if "history" in row else {})}}

    made = {mode: [a or "" for a in await asker.one(adapter, rows, given)] for mode, adapter in (("adapter alone", names.chat), ("base alone", f"{names.chat}@base"))}
    if all("passage" in row for row in rows):
        made["first sentence"] = [sentences(row["passage"])[0] for row in rows]
        made["most words shared"] = [_most_shared(row["text"], sentences(row["passage"])) for row in rows]
        made["nearest by MiniLM"] = await asyncio.to_thread(_nearest, rows)
    known = [row for row in train if "answer" in row]
    if known and not any("passage" in row for row in rows):
        made["answer of the nearest, by TF-IDF"], made["answer of the nearest, by MiniLM"] = nearest_by_tfidf(known, rows), await asyncio.to_thread(nearest_by_minilm, known, rows)
    if whole and known:
        made |= {mode: [a or "" for a in found] for mode, found in (await asyncio.to_thread(whole.answers, names.chat, known, rows)).items()}
    overlap = {mode: [token_f1(got, row["answer"]) for got, row in zip(found, rows, strict=True)] for mode, found in made.items()}
    right = {mode: [value >= NEARLY for value in values] for mode, values in overlap.items()}
    scores = [Score("answer, overlap of words", mode, sum(values) / len(values), None, None, len(rows)) for mode, values in overlap.items()]
    scores += [share("answer is right", mode, hits) for mode, hits in right.items()]
    return scores + [paired("answer is right", f"adapter over {mode}", right["adapter alone"], right[mode]) for mode in made if mode != "adapter alone"]


def _most_shared(question: str, said: Sequence[str]) -> str:
    return max(said, key=lambda sentence: token_f1(sentence, question))


def _nearest(rows: Sequence[Row]) -> list[str]:
    """The sentence of each passage that a prompt of an adapter that quotes shows first."""
    shown = Shortlist(minilm().encode).narrow(TaskSpec("chat", quote=True, shortlist=1), [{"question": row["text"], "passage": row["passage"]} for row in rows])
    return [given["passage"] for _, given in shown]
