"""Clauses, and the decision from their scores."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inference.routing.clauses import clauses, heading, is_request
from inference.routing.decision import Decision, Match, Route, Thresholds, decide
from inference.routing.router import SURE
from runtime.project import Adapter, ToolDeclaration
from schemas.events import RouteStatus

TOOL = Adapter(task="tool", result="tool-calls", tools=(ToolDeclaration(name="t", description="d"),), utterances=("u",), threshold=0.5)
MOOD = Adapter(task="classify", result="sentiment", labels=("A",))
CHAT = Adapter(task="chat", result="chat", utterances=("v",), threshold=0.4)
T, C = ("tool", ""), ("chat", "")
ADAPTERS = {"tool": TOOL, "mood": MOOD, "chat": CHAT}


def decided(adapters: dict[str, Adapter], text: str, parts: list[str], ranked: list[dict[Route, float]], whole: dict[Route, float] | None = None, exclusive: bool = True) -> Decision:
    """The decision where scores are cosines."""

    def matches(scores: dict[Route, float]) -> dict[Route, Match]:
        return {route: Match(score, score, f"like {route[0]}") for route, score in scores.items()}

    thresholds = Thresholds({name: adapter.threshold for name, adapter in adapters.items() if adapter.routes}, 0.1, SURE, split=0.7)
    return decide(adapters, thresholds, text, parts, [matches(scores) for scores in ranked], None if whole is None else matches(whole), exclusive)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("I'm frustrated with the login error, can you reset my password?", ["I'm frustrated with the login error", "can you reset my password?"]),
        ("Refund order 5 and cancel my plan.", ["Refund order 5", "cancel my plan."]),
        ("open a ticket: it crashes and restarts all day", ["open a ticket: it crashes and restarts all day"]),
        ("Reboot it. Also check ticket 7", ["Reboot it.", "check ticket 7"]),
        ("reboot the loft then tell me the time", ["reboot the loft", "tell me the time"]),
        ("where is order 5 and where is order 6?", ["where is order 5", "where is order 6?"]),
        ("unlock my account and put m@zeta.io as my email", ["unlock my account", "put m@zeta.io as my email"]),
        ("restart the balcony hub and the workshop hub", ["restart the balcony hub and the workshop hub"]),
        ("hello", ["hello"]),
        ("?!", ["?!"]),
    ],
)
def test_clauses(text: str, parts: list[str]) -> None:
    assert clauses(text) == parts


def test_a_text_of_many_clauses_costs_no_more_than_sixteen() -> None:
    found = clauses(" ".join(f"send me bill {number}." for number in range(300)))
    assert (len(found), found[0], found[15].endswith("send me bill 299.")) == (16, "send me bill 0.", True)


@given(st.text(min_size=1, max_size=40))
def test_every_text_has_a_clause_and_none_is_invented(text: str) -> None:
    found = clauses(text)
    assert found
    assert all(clause in " ".join(text.split()) for clause in found)


def test_each_clause_goes_to_its_best_route_above_the_threshold() -> None:
    intents = decided(ADAPTERS, "a b", ["a", "b"], [{T: 0.8, C: 0.6}, {T: 0.45, C: 0.41}]).intents
    assert [(i.adapter, i.text) for i in intents] == [("mood", "a b"), ("tool", "a"), ("chat", "b")]


def test_nothing_fits() -> None:
    assert [i.adapter for i in decided(ADAPTERS, "a", ["a"], [{T: 0.1, C: 0.1}]).intents if not i.always] == []


def test_an_adapter_whose_tools_come_with_the_message_is_not_routed_to() -> None:
    brought = Adapter(task="tool", result="calls", teach=False)
    declared = Adapter(task="tool", result="calls", tools=TOOL.tools)
    assert [i.adapter for i in decided({"brought": brought, "declared": declared}, "a", ["a"], [{}]).intents] == ["declared"]


def test_a_whole_message_route_is_asked_once_about_all_of_it() -> None:
    adapters = {"mood": Adapter(task="classify", result="sentiment", labels=("A",), utterances=("u",), whole_message=True, threshold=0.5)}
    assert [(i.adapter, i.text) for i in decided(adapters, "a b", ["a", "b"], [{("mood", ""): 0.9}, {("mood", ""): 0.8}]).intents] == [("mood", "a b")]


@pytest.mark.parametrize(
    ("parts", "texts"),
    [
        (["reset my password", "where is order 5?"], ["reset my password", "where is order 5?"]),
        (["it arrived broken", "refund order 5"], ["it arrived broken refund order 5"]),
        (["no light at all", "nothing works"], ["no light at all nothing works"]),
    ],
    ids=["two requests", "a request and its reason", "no request by form"],
)
def test_clauses_of_one_adapter_are_one_intent_unless_two_of_them_ask(parts: list[str], texts: list[str]) -> None:
    intents = decided({"tool": TOOL}, " ".join(parts), parts, [{T: 0.7}, {T: 0.6}]).intents
    assert [i.text for i in intents] == texts


@pytest.mark.parametrize(
    ("topic", "score", "count"),
    [("lost", SURE, 2), ("lost", SURE - 0.01, 1), ("bill", 1.0, 1)],
    ids=["nearly an utterance", "not near enough", "for what is asked already"],
)
def test_a_clause_asks_when_it_nearly_is_an_utterance_for_something_else(topic: str, score: float, count: int) -> None:
    parts = ["my password is gone", "send the bill"]
    intents = decided({"tool": TOOL}, " ".join(parts), parts, [{("tool", topic): score}, {("tool", "bill"): 0.6}]).intents
    assert [i.text for i in intents] == (parts if count == 2 else [" ".join(parts)])


@pytest.mark.parametrize(
    ("clause", "asks"),
    [
        ("can you reset my password?", True), ("please look", True), ("Hi, track order 5", True), ("I need a bill", True), ("Still not there?!", True), ("That's it, end my plan", True), ("order 12 more of them", True),
        ("I'm frustrated with the login error", False), ("The sensor arrived smashed.", False), ("Order A-1357 arrived smashed.", False), ("order number 13579 is here", False),
    ],
)
def test_requests_are_told_by_their_form(clause: str, asks: bool) -> None:
    assert is_request(clause) is asks


@pytest.mark.parametrize(("clause", "asked"), [("open a ticket: the lamp: dead", "open a ticket"), ("call me at 9:30", "call me at 9:30"), (":", ":")])
def test_what_a_clause_quotes_is_not_what_it_asks(clause: str, asked: str) -> None:
    assert heading(clause) == asked


@pytest.mark.parametrize(
    ("scores", "status", "adapter"),
    [
        ({T: 0.8, C: 0.69}, RouteStatus.CLASSIFIED, "tool"),
        ({T: 0.8, C: 0.71}, RouteStatus.AMBIGUOUS, "tool"),
        ({T: 0.5, ("tool", "bill"): 0.5}, RouteStatus.CLASSIFIED, "tool"),
        ({T: 0.49, C: 0.41}, RouteStatus.AMBIGUOUS, "chat"),
        ({T: 0.49, C: 0.39}, RouteStatus.UNKNOWN, None),
    ],
    ids=["clear", "close", "two tools of one adapter", "the better one is below its own threshold", "none"],
)
def test_a_decision_says_how_clear_it_is(scores: dict[Route, float], status: RouteStatus, adapter: str | None) -> None:
    decision = decided(ADAPTERS, "a", ["a"], [scores])
    chosen = [i for i in decision.intents if not i.always]
    assert (decision.status, [i.adapter for i in chosen]) == (status, [adapter] if adapter else [])
    assert all(i.nearest == f"like {i.adapter}" and i.score == max(score for route, score in scores.items() if route[0] == i.adapter) for i in chosen)


def test_routes_that_do_not_exclude_one_another_are_told_of_the_whole_message() -> None:
    decision = decided(ADAPTERS, "it broke, send the bill", ["it broke", "send the bill"], [{T: 0.1, C: 0.9}, {T: 0.9, C: 0.1}], {T: 0.9, C: 0.3}, exclusive=False)
    assert [(i.adapter, i.text) for i in decision.intents if not i.always] == [("tool", "it broke, send the bill")]
    both = decided(ADAPTERS, "where is order 5? send the bill", ["where is order 5?", "send the bill"], [{T: 0.8}, {T: 0.9}], {T: 0.9, C: 0.8}, exclusive=False)
    assert [(i.adapter, i.text) for i in both.intents if not i.always] == [("tool", "where is order 5?"), ("tool", "send the bill"), ("chat", "where is order 5? send the bill")]


@pytest.mark.parametrize(
    ("parts", "ranked", "intents"),
    [
        (["I got married.", "how do I change my name?"], [{C: 0.72}, {T: 0.9}], [("chat", "WHOLE")]),
        (["track order 5", "what does the lamp mean?"], [{T: 0.9}, {C: 0.8}], [("tool", "track order 5"), ("chat", "what does the lamp mean?")]),
        (["track order 5", "what does the lamp mean?"], [{T: 0.9}, {C: 0.69}], [("chat", "WHOLE")]),
        (["track order 5", "track order 6"], [{T: 0.9}, {T: 0.8}], [("tool", "track order 5"), ("tool", "track order 6")]),
    ],
    ids=["a reason and a request", "two requests", "the second is not sure enough", "the same twice"],
)
def test_of_routes_known_from_whole_messages_only_clear_requests_stand_apart(parts: list[str], ranked: list[dict[Route, float]], intents: list[tuple[str, str]]) -> None:
    decision = decided({"tool": TOOL, "chat": CHAT}, "WHOLE", parts, ranked, whole={C: 0.95, T: 0.2})
    assert [(i.adapter, i.text) for i in decision.intents] == intents
