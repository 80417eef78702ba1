"""Routes fitted to labelled requests: what they are worth, as files, read again when they change."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from inference.routing.decision import Scores
from inference.routing.fit import Fitted, Labelled, fit, labelled, split
from inference.routing.model import DESCRIPTION, TENSORS, load_routes, save_routes
from inference.routing.ngrams import BUCKETS, features, matrix
from inference.routing.router import LiveRouter, Routes, routes_of
from inference.routing.scorers import Calibration
from runtime.errors import InvalidInput, SettingsError
from runtime.project import Adapter, load_project
from schemas.events import RouteStatus

WORDS = {"password": ["reset", "password", "login"], "order": ["order", "parcel", "shipping"], "bill": ["invoice", "bill", "receipt"]}
PROJECT = """
[adapters.tool]
task = "tool"
result = "calls"
tools = [{ name = "reset", description = "d", utterances = ["reset my password", "I can't log in"] }]
[adapters.mood]
task = "classify"
result = "mood"
labels = ["A", "B"]
[adapters.chat]
task = "chat"
result = "chat"
utterances = ["how does the hub connect", "what does the red light mean"]
"""


def encode(texts: Sequence[str]) -> NDArray[np.float32]:
    """Words thrown into 64 directions by their hash."""
    vectors = np.zeros((len(texts), 64), np.float32)
    for row, text in enumerate(texts):
        for word in text.split():
            vectors[row, hashlib.sha256(word.encode()).digest()[0] % 64] += 1
    return np.asarray(vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-9), np.float32)


def rows(count: int, seed: int, several: bool = False) -> list[Labelled]:
    """Messages of two words that say what they are for, and one that does not; every fifth is for nothing."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        filler = f"w{rng.integers(50)}"
        if number % 5 == 0:
            found.append(Labelled(f"{filler} x{rng.integers(50)} y{rng.integers(50)}", frozenset()))
            continue
        names = rng.choice(list(WORDS), size=2 if several and number % 2 else 1, replace=False)
        found.append(Labelled(" ".join([*(word for name in names for word in rng.choice(WORDS[name], size=2)), filler]), frozenset((str(name), "") for name in names)))
    return found


def scored(made: Fitted, *texts: str) -> list[Scores]:
    return made.scorer().score(texts, encode(texts))


TRAIN, VALIDATION = rows(300, 0), rows(200, 1)


@pytest.fixture(scope="module")
def fitted() -> Fitted:
    return fit({}, TRAIN, VALIDATION, encode, 0.02, 0.1)


def test_a_head_tells_routes_and_what_is_out_of_scope(fitted: Fitted) -> None:
    assert fitted.report.best_is_right is not None
    assert fitted.report.out_of_scope_recall is not None
    assert (fitted.report.best_is_right, fitted.report.out_of_scope_recall) > (0.95, 0.9)
    assert fitted.report.calibration_error < 0.1
    scores, nothing = scored(fitted, "reset password w3", "x1 y2 w3")
    assert max(scores, key=lambda route: scores[route].score) == ("password", "")
    assert scores["password", ""].score > fitted.threshold > max(match.score for match in nothing.values())
    assert set(scores["password", ""].nearest.split()) & set(WORDS["password"])


def test_n_grams_alone_decide_what_they_are_sure_of_as_the_vector_would(fitted: Fitted) -> None:
    scorer, fresh = fitted.scorer(), [row.text for row in rows(400, 7)]
    decided = {text: scores for text in fresh if (scores := scorer.at_once(text)) is not None}
    assert 0.3 < len(decided) / len(fresh) < 1
    assert fitted.report.without_encoder > 0.3
    for (text, scores), whole in zip(decided.items(), scored(fitted, *decided), strict=True):
        best = max(scores, key=lambda route: scores[route].score)
        assert best == max(whole, key=lambda route: whole[route].score), text
        assert scores[best].score >= fitted.threshold
        assert set(scores[best].nearest.split()) & set(text.split())
        assert 0 < scores[best].similarity <= 1 + 1e-5
    assert scorer.at_once("x1 y2 w3") is None


def test_the_encoder_is_asked_only_where_n_grams_are_not_sure(fitted: Fitted) -> None:
    asked: list[str] = []

    def remembered(texts: Sequence[str]) -> NDArray[np.float32]:
        asked.extend(texts)
        return encode(texts)

    encoder: Any = SimpleNamespace(encode=remembered)
    routes = Routes({name: Adapter(task="chat", result="chat") for name in WORDS}, encoder, fitted.scorer(), fitted.thresholds(0.1))
    text = next(row.text for row in rows(50, 8) if fitted.scorer().at_once(row.text) is not None)
    decision = routes.decide(text)
    assert ([intent.text for intent in decision.intents], decision.status) == ([text], RouteStatus.CLASSIFIED)
    assert routes.best(text) == (decision.intents[0].adapter, decision.intents[0].score)
    assert not asked
    routes.decide(f"{text}. And {text}")
    assert asked == [f"{text}.", text, f"{text}. And {text}"]
    asked.clear()
    assert routes.decide("x1 y2 w3").status is RouteStatus.UNKNOWN
    assert asked == ["x1 y2 w3"]


@settings(deadline=None, max_examples=30)
@given(st.floats(0.0, 0.3))
def test_at_most_so_much_of_what_is_in_scope_is_held_for_out_of_scope(rate: float) -> None:
    declared = {("password", ""): ["reset password", "login"], ("order", ""): ["order parcel"]}
    validation = [row for row in VALIDATION if row.routes <= declared.keys()]
    made = fit(declared, [], validation, encode, rate, 0.1)
    confidence = [max(match.score for match in scores.values()) for scores in scored(made, *(row.text for row in validation if row.routes))]
    assert np.mean(np.array(confidence) < made.threshold) <= rate


def test_rows_of_several_routes_are_told_as_sets() -> None:
    made = fit({}, rows(600, 2, several=True), rows(300, 3, several=True), encode, 0.02, 0.1)
    assert not made.exclusive
    assert made.report.exact > 0.8
    (found,) = scored(made, "reset password parcel shipping w1")
    assert {route[0] for route, match in found.items() if match.score >= made.threshold} == {"password", "order"}


@pytest.mark.parametrize(
    ("train", "validation", "reason"),
    [
        ([], VALIDATION, "0 routes and 200 validation rows are too few"),
        (TRAIN, VALIDATION[:3], "3 routes and 3 validation rows are too few"),
        (TRAIN, [*VALIDATION, Labelled("x", frozenset({("tool", "fly")}))], "validation knows 'tool/fly', of which no utterance"),
    ],
)
def test_what_can_not_be_fitted_is_said(train: list[Labelled], validation: list[Labelled], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        fit({}, train, validation, encode, 0.02, 0.1)


@pytest.mark.parametrize("row", [{"text": "", "intents": []}, {"intents": []}, {"text": "a"}, {"text": "a", "intents": "tool"}, {"text": "a", "intents": [3]}, {"text": 3, "intent": "a"}])
def test_rows_of_another_form_are_refused_with_their_number(row: dict[str, Any]) -> None:
    with pytest.raises(InvalidInput, match="row 2 is not of the form"):
        labelled([{"text": "a", "intent": "tool"}, row])


@given(st.lists(st.text(min_size=1), unique=True))
def test_what_is_held_out_depends_on_each_text_alone(texts: list[str]) -> None:
    found = [Labelled(text, frozenset()) for text in texts]
    known, held_out = split(found)
    assert sorted(row.text for row in (*known, *held_out)) == sorted(texts)
    assert [row for one in found for row in split([one])[1]] == held_out


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=20), st.floats(0.1, 5), st.floats(-3, 3))
def test_calibration_never_reorders(evidence: list[float], weight: float, bias: float) -> None:
    probabilities = Calibration((weight,), bias)(np.sort(np.array(evidence))[:, None])
    assert np.all(np.diff(probabilities) >= 0)
    assert np.all((probabilities >= 0) & (probabilities <= 1))


def test_fitted_routes_come_back_from_their_files_as_they_were(fitted: Fitted, tmp_path: Path) -> None:
    save_routes(fitted, tmp_path / "router")
    save_routes(fitted, tmp_path / "router")
    again, _ = load_routes(tmp_path / "router")
    texts = "reset password w3", "x1 y2 w3", "bill"
    assert scored(again, *texts) == scored(fitted, *texts)
    assert [again.scorer().at_once(text) for text in texts] == [fitted.scorer().at_once(text) for text in texts]
    assert (again.report, again.threshold, again.calibration, again.cascade) == (fitted.report, fitted.threshold, fitted.calibration, fitted.cascade)
    assert [path.name for path in tmp_path.iterdir()] == ["router"]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (TENSORS, b"other", f"{TENSORS} is not what {DESCRIPTION} says"),
        (TENSORS, None, f"{TENSORS} is missing"),
        (DESCRIPTION, b"{}", "can't be read"),
        (DESCRIPTION, b"no json", "can't be read"),
        (DESCRIPTION, b'{"format": 1}', "of format 1, 2 is read"),
        (DESCRIPTION, b'{"format": 2, "files": {"../x": "00"}}', "is not what"),
        (DESCRIPTION, None, f"{DESCRIPTION} is missing"),
    ],
)
def test_a_folder_that_is_not_whole_is_named_with_the_way_out(fitted: Fitted, tmp_path: Path, name: str, content: bytes | None, reason: str) -> None:
    save_routes(fitted, tmp_path / "router")
    if content is None:
        (tmp_path / "router" / name).unlink()
    else:
        (tmp_path / "router" / name).write_bytes(content)
    with pytest.raises(SettingsError, match=f"(?s)router.*{reason}.*loom routes fit"):
        load_routes(tmp_path / "router")


def live(tmp_path: Path, text: str = PROJECT) -> tuple[LiveRouter, Path]:
    file = tmp_path / "loom.toml"
    file.write_text(text)
    return LiveRouter(file, load_project(file)), file


def chosen(router: LiveRouter, text: str) -> tuple[RouteStatus | None, list[str]]:
    decision = asyncio.run(router.route(text))
    return decision.status, [intent.adapter for intent in decision.intents]


def test_a_router_without_routes_is_unavailable_and_says_why(tmp_path: Path) -> None:
    router, _ = live(tmp_path)
    decision = asyncio.run(router.route("reset my password"))
    assert (decision.status, [i.adapter for i in decision.intents], decision.error) == (RouteStatus.UNAVAILABLE, ["mood"], "routes are being loaded")


def test_an_encoder_that_fails_makes_the_router_unavailable_until_it_works_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    router, _ = live(tmp_path)
    asyncio.run(router.load())
    assert router._routes is not None
    with monkeypatch.context() as patched:
        patched.setattr(router._routes._encoder, "encode", lambda _: 1 / 0)
        decision = asyncio.run(router.route("reset my password"))
    assert (decision.status, decision.error) == (RouteStatus.UNAVAILABLE, "the router failed: division by zero")
    assert chosen(router, "reset my password") == (RouteStatus.CLASSIFIED, ["mood", "tool"])


def test_routes_follow_the_file_and_stay_where_it_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("inference.routing.router.LOOK_SECONDS", 0.01)
    router, file = live(tmp_path)

    async def changed(text: str) -> RouteStatus | None:
        stop = asyncio.Event()
        running = asyncio.create_task(router.run(stop))
        file.write_text(text)
        for _ in range(100):
            await asyncio.sleep(0.05)
            if router._seen is not before and router._seen == [text.encode()]:
                break
        stop.set()
        await running
        return (await router.route("does the tortoise hibernate")).status

    asyncio.run(router.load())
    before = router._seen
    assert chosen(router, "does the tortoise hibernate") == (RouteStatus.UNKNOWN, ["mood"])
    wider = PROJECT.replace('["how does', '["when do tortoises hibernate", "how does')
    assert asyncio.run(changed(wider)) is RouteStatus.CLASSIFIED
    assert asyncio.run(changed(wider + "[adapters.chat.gat]\nx = 1\n")) is RouteStatus.CLASSIFIED
    assert asyncio.run(changed(PROJECT)) is RouteStatus.UNKNOWN


def test_an_adapter_that_is_new_in_the_file_waits_for_a_restart(tmp_path: Path) -> None:
    router, file = live(tmp_path)
    file.write_text(PROJECT + '[adapters.garden]\ntask = "chat"\nresult = "garden"\nutterances = ["does the tortoise hibernate"]\n')
    asyncio.run(router.load())
    assert chosen(router, "does the tortoise hibernate") == (RouteStatus.UNKNOWN, ["mood"])


def save_for(fitted: Fitted, folder: Path, names: dict[str, str]) -> None:
    """Fitted routes under the names of a project's adapters."""
    save_routes(fitted, folder)
    described = json.loads((folder / DESCRIPTION).read_text())
    for entry in described["routes"]:
        entry["route"] = names[entry["route"]]
    (folder / DESCRIPTION).write_text(json.dumps(described))


@pytest.mark.parametrize(("names", "reason"), [({"password": "tool/reset", "order": "chat", "bill": "shop"}, "an adapter 'shop' that is not declared"), ({"password": "tool/reset", "order": "tool/x", "bill": "tool/y"}, "don't know adapter 'chat'")])
def test_fitted_routes_of_other_adapters_are_refused(fitted: Fitted, tmp_path: Path, names: dict[str, str], reason: str) -> None:
    save_for(fitted, tmp_path / "router", names)
    (tmp_path / "loom.toml").write_text(PROJECT + '[router]\nfitted = "router"\n')
    with pytest.raises(SettingsError, match=f"{reason}.*loom routes fit"):
        routes_of(load_project(tmp_path / "loom.toml"))


@given(st.text())
def test_features_have_length_one_and_depend_on_the_text_alone(text: str) -> None:
    at, values = features(text)
    assert len(set(at)) == len(at)
    assert not len(at) or np.linalg.norm(values) == pytest.approx(1, abs=1e-5)
    row = matrix([text], np.ones(BUCKETS, np.float32))
    assert {int(i): float(v) for i, v in zip(row.indices, row.data, strict=True)} == {int(i): float(v) for i, v in zip(at, values, strict=True)}
