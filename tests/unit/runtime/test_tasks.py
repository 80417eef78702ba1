"""Task renderers, parsers and grammars: what one writes, the others take."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.tasks import classify, extract, samples, tool
from runtime.tasks.grammar import grammar
from runtime.tasks.samples import TaskSpec

RESET = tool.Tool("reset_password_flow", "Give a new password", {"type": "object", "properties": {"user_id": {"type": "string"}}, "required": ["user_id"]})
LOOKUP = tool.Tool("lookup_action", "Status", {"type": "object", "properties": {"ticket_id": {"type": "string"}, "limit": {"type": "integer"}}, "required": ["ticket_id"]})
PLAN = tool.Tool("set_plan", "Plan", {"type": "object", "properties": {"plan": {"type": "string", "enum": ["basic", "plus"]}}, "required": ["plan"]})
LAMP = tool.Tool("set_lamp", "Lamp", {"type": "object", "properties": {"on": {"type": "boolean"}, "level": {"type": "integer", "enum": [1, 2, "most"]}, "warm": {"type": "boolean", "enum": [True]}}, "required": ["on"]})
TOOLS = [RESET, LOOKUP, PLAN, LAMP]
SPEC = TaskSpec("tool", tools=tuple(TOOLS))
CONTEXT = {"user_id": "current"}


@pytest.mark.parametrize(
    "call",
    [
        None,
        tool.ToolCall("reset_password_flow", {"user_id": "current"}),
        tool.ToolCall("lookup_action", {"ticket_id": "PW-5", "limit": 3}),
        tool.ToolCall("lookup_action", {}, ("ticket_id",)),
        tool.ToolCall("set_plan", {"plan": "plus"}),
        tool.ToolCall("set_lamp", {"on": False, "level": 2, "warm": True}),
        tool.ToolCall("set_lamp", {"on": True, "level": "most"}),
    ],
)
def test_parse_undoes_render(call: tool.ToolCall | None) -> None:
    assert tool.parse_call(tool.render_call(call, TOOLS), TOOLS, CONTEXT) == call


@pytest.mark.parametrize(
    ("completion", "fault"),
    [
        ("drop_table", "no such tool"),
        ("lookup_action", "lacks 'ticket_id'"),
        ("lookup_action\nticket_id= 1\ncolour= red", "no argument 'colour'"),
        ("lookup_action\nticket_id= 1\nlimit= many", "invalid literal"),
        ("set_plan\nplan= gold", "none of"),
        ("set_lamp\non= False", "not a boolean"),
        ("set_lamp\non= true\nlevel= 3", "none of"),
        ("lookup_action\nticket_id 1", "not a field"),
    ],
)
def test_invalid_calls_say_what_is_wrong(completion: str, fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        tool.parse_call(completion, TOOLS, CONTEXT)


INJECTED = tool.Tool(
    "transfer", "Send money",
    {"type": "object", "properties": {"account": {"type": "string", "x-injected": True}, "to": {"type": "string"}, "limit": {"type": "integer", "x-injected": True}, "note": {"type": "string"}}, "required": ["account", "to"]},
)  # fmt: skip
TRANSFER = TaskSpec("tool", tools=(INJECTED,))


def test_an_injected_argument_is_the_context_s_whatever_the_message_says() -> None:
    given = {"message": "send it to Bob from account 7", "context": {"account": "12", "limit": "50"}}
    right = {"tool": "transfer", "account": "12", "to": "Bob", "limit": 50}
    prompt, completion = samples.render(TRANSFER, {"input": given, "output": {"calls": [right]}})
    assert "transfer(note?, to) Send money" in prompt.system
    assert completion == "transfer\nto= Bob"
    assert samples.answer(TRANSFER, completion, given) == right
    source = grammar(TRANSFER, given)
    assert source and accepts(source, completion) and not accepts(source, "transfer\naccount= 7\nto= Bob")
    with pytest.raises(ValueError, match="no argument 'account'"):
        samples.answer(TRANSFER, "transfer\naccount= 7\nto= Bob", given)
    assert samples.answer(TRANSFER, completion, {"message": given["message"]}) == {"tool": "transfer", "to": "Bob", "missing": ["account"]}
    with pytest.raises(ValueError, match="invalid literal"):
        samples.answer(TRANSFER, completion, {**given, "context": {"account": "12", "limit": "high"}})


@pytest.mark.parametrize(
    ("context", "call", "fault"),
    [
        ({"account": "12"}, {"account": "7", "to": "Bob"}, "account is injected: it is '12', as in the context"),
        ({"account": "12"}, {"to": "Bob"}, "account is injected: it is '12'"),
        ({}, {"account": "7", "to": "Bob"}, "account is injected: the context does not have it"),
        ({}, {"to": "Bob"}, "account is injected: the context does not have it, so it is missing"),
    ],
)
def test_a_label_has_an_injected_argument_as_an_answer_would(context: dict[str, str], call: dict[str, str], fault: str) -> None:
    body = {"input": {"message": "send it to Bob from account 7", "context": context}, "output": {"calls": [{"tool": "transfer", **call}]}}
    with pytest.raises(ValueError, match=fault):
        samples.render(TRANSFER, body)


@given(st.permutations(range(5)), st.sets(st.integers(0, 4)), st.sets(st.integers(0, 4)), st.sets(st.integers(0, 4)), st.randoms(use_true_random=False))
def test_serving_s_grammar_takes_what_training_teaches(order: list[int], required: set[int], injected: set[int], unsaid: set[int], rng: random.Random) -> None:
    """In whatever order a label names its arguments and what is missing."""
    words = [f"w{i}" for i in range(5)]
    schemas = {f"a{i}": {"type": "string", **({"x-injected": True} if i in injected else {})} for i in order}
    spec = TaskSpec("tool", tools=(tool.Tool("act", "", {"type": "object", "properties": schemas, "required": [f"a{i}" for i in sorted(required)]}),))
    given = {"message": " ".join(words), "context": {f"a{i}": words[i] for i in injected - unsaid}}
    values = [(f"a{i}", words[i]) for i in range(5) if i not in unsaid]
    missing = [f"a{i}" for i in required & unsaid]
    rng.shuffle(values)
    rng.shuffle(missing)
    right = {"tool": "act", **dict(values), **({"missing": missing} if missing else {})}
    _, completion = samples.render(spec, {"input": given, "output": {"calls": [right]}})
    source = grammar(spec, given)
    assert source is not None
    assert accepts(source, completion)
    assert tool.is_same(samples.answer(spec, completion, given), right)


def test_a_signature_is_one_line() -> None:
    assert tool.signature(LOOKUP) == "lookup_action(limit?, ticket_id) Status"
    assert tool.signature(PLAN) == "set_plan(plan: basic|plus) Plan"


def accepts(source: str, completion: str) -> bool:
    """Whether the grammar takes the whole completion, by XGrammar itself."""
    xgrammar = pytest.importorskip("xgrammar")
    info = xgrammar.TokenizerInfo([bytes([i]) for i in range(256)] + [b"</s>"], stop_token_ids=[256])
    matcher = xgrammar.GrammarMatcher(xgrammar.GrammarCompiler(info).compile_grammar(source))
    return bool(matcher.accept_string(completion) and matcher.accept_token(256))


GIVEN = {"message": "Check (ticket) #1234, it's Anna's. Plan: plus", "context": CONTEXT}


@pytest.mark.parametrize(
    ("completion", "taken"),
    [
        ("none", True),
        ("reset_password_flow\nuser_id= current", True),
        ("lookup_action\nticket_id= 1234", True),
        ("lookup_action\nticket_id= #1234, it's Anna", True),
        ("lookup_action\nticket_id= ticket) #1234", True),
        ("lookup_action\nticket_id= ?", True),
        ("lookup_action\nlimit= 5\nticket_id= 1234", True),
        ("lookup_action\nticket_id= 1234\nlimit= 5", False),
        ("set_plan\nplan= plus", True),
        ("set_plan\nplan= gold", False),
        ("lookup_action\nticket_id= 123", False),
        ("lookup_action\nticket_id= 999", False),
        ("lookup_action", False),
        ("transfer_money\nto= me", False),
        ("none\nnone", False),
        ("set_lamp\nlevel= most\non= true\nwarm= true", True),
        ("set_lamp\non= True", False),
        ("set_lamp\non= true\nwarm= false", False),
    ],
)
def test_the_grammar_takes_valid_calls_with_copied_values_alone(completion: str, taken: bool) -> None:
    source = grammar(SPEC, GIVEN)
    assert source is not None
    assert accepts(source, completion) is taken


@given(st.text(alphabet=st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=60))
def test_any_message_has_a_grammar_that_takes_no_call(message: str) -> None:
    source = grammar(SPEC, {"message": message, "context": {}})
    assert source is not None
    assert accepts(source, "none")


@given(st.lists(st.text(alphabet="abc#1.'", min_size=1, max_size=6), min_size=1, max_size=8), st.data())
def test_every_run_of_whole_words_is_a_span(words: list[str], data: st.DataObject) -> None:
    start = data.draw(st.integers(0, len(words) - 1))
    end = data.draw(st.integers(start + 1, len(words)))
    if not any(c.isalnum() for c in words[start]) or not any(c.isalnum() for c in words[end - 1]):
        return
    source = grammar(SPEC, {"message": " ".join(words), "context": {}})
    assert source is not None
    span = " ".join(words[start:end])
    if span.endswith(("'s", "’s")) or "'s" in words[end - 1]:
        return
    assert accepts(source, f"lookup_action\nticket_id= {span}")


ORDER = tool.Tool("track", "", {"type": "object", "properties": {"order_id": {"type": "string", "pattern": "^[A-Z]?-?[0-9]{3,}$"}, "mail": {"type": "string", "format": "email"}}, "required": ["order_id"]})


@pytest.mark.parametrize(
    ("message", "completion", "taken"),
    [
        ("where is (A-771)?", "track\norder_id= A-771", True),
        ("where is order 771.", "track\norder_id= 771", True),
        ("where is order 771.", "track\norder_id= order 771", False),
        ("at 4 pm", "track\norder_id= 4 pm", False),
        ("at 4 pm", "track\norder_id= ?", True),
        ("771, write to a.b@c.org!", "track\nmail= a.b@c.org\norder_id= 771", True),
        ("771, write to me", "track\nmail= me\norder_id= 771", False),
    ],
)
def test_a_pattern_admits_matching_spans_alone(message: str, completion: str, taken: bool) -> None:
    source = grammar(TaskSpec("tool", tools=(ORDER,)), {"message": message, "context": {}})
    assert source is not None
    assert accepts(source, completion) is taken


def test_entities_come_back_with_their_offsets() -> None:
    text = "Ann met Bob and Ann"
    found = [extract.Entity(0, 3, "PERSON", "Ann"), extract.Entity(8, 11, "PERSON", "Bob"), extract.Entity(16, 19, "PERSON", "Ann")]
    assert extract.parse_entities(extract.render_entities(found), ["PERSON"], text) == found
    assert extract.parse_entities("none", ["PERSON"], text) == []


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"input": {"message": "hi"}, "output": {"calls": [{"tool": "lookup_action", "ticket_id": "77"}]}}, "no span"),
        ({"input": {"message": "hi"}, "output": {"calls": [{"tool": "x"}]}}, "no such tool"),
        ({"input": {}, "output": {"calls": []}}, "not a tool example"),
        ({"input": {"message": "a"}, "output": {"calls": [{"tool": "set_plan", "plan": "plus"}] * 2}}, "one call at most"),
    ],
)
def test_a_bad_tool_example_is_refused(body: dict[str, Any], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        samples.render(SPEC, body)


def test_what_is_on_offer_is_shuffled_by_the_seed_alone() -> None:
    body = {"input": {"message": "hi", "context": {}}, "output": {"calls": []}}
    assert samples.render(SPEC, body, random.Random(3)) == samples.render(SPEC, body, random.Random(3))
    assert len({samples.render(SPEC, body, random.Random(i))[0].system for i in range(20)}) > 1


def test_a_prompt_names_labels_as_long_as_they_are_few() -> None:
    few, many = (tuple(f"label-{n}" for n in range(count)) for count in (classify.LISTED, classify.LISTED + 1))
    assert all(label in samples.ask(TaskSpec("classify", few), {"text": "hi"}).system.split(": ")[1].split(", ") for label in few)
    assert samples.ask(TaskSpec("classify", many), {"text": "hi"}, random.Random(0)).system == f"labels: {len(many)}"
    rules = grammar(TaskSpec("classify", many), {"text": "hi"})
    assert rules and all(f'"{label}"' in rules for label in many)
    prompt, completion = samples.render(TaskSpec("classify", many), {"input": {"text": "hi"}, "output": {"label": many[-1]}}, random.Random(0))
    assert (prompt.user, completion) == ("hi", many[-1])


def test_training_frames_are_worded_otherwise_than_the_held_out_phrasings() -> None:
    import json
    import re
    import tomllib

    def plain(text: str) -> str:
        return re.sub(r"[^a-z0-9@]+", " ", text.casefold()).strip()

    root = Path(__file__).parents[3]
    held_out = [plain(json.loads(line)["text"]) for name in ("requests", "fresh") for line in (root / f"tests/phrasings/{name}.jsonl").open()]
    file = tomllib.loads((root / "examples/pebblewire/frames.toml").read_text())
    frames = [f for t in file["tools"].values() for f in (*t["frames"], *t.get("missing", ()))] + file["none"]["frames"]
    frames += [f for mood in file["mood"].values() for f in (*mood["frames"], *mood["remarks"])]
    patterns = [re.compile(plain(re.sub(r"\{\w+\}", " 0slot0 ", frame)).replace("0slot0", r"\S+(?: \S+){0,2}")) for frame in frames if plain(re.sub(r"\{\w+\}", "", frame))]
    assert [(text, p.pattern) for text in held_out for p in patterns if p.fullmatch(text)] == []


PASSAGE = "The key always works. Every turn is kept for ninety days.\nOwners can erase it!"


@pytest.mark.parametrize(
    ("completion", "taken"),
    [
        ("The key always works.", True), ("The key always works. Owners can erase it!", True), ("Owners can erase it! The key always works.", True),
        ("The key never works.", False), ("The key always", False), ("", False), (" ".join(["The key always works."] * 4), False),
    ],
)  # fmt: skip
def test_quotes_are_whole_sentences_of_the_passage(completion: str, taken: bool) -> None:
    source = grammar(TaskSpec("chat", quote=True), {"question": "the key?", "passage": PASSAGE})
    assert source is not None
    assert accepts(source, completion) is taken


def test_without_a_passage_or_the_setting_text_is_free() -> None:
    assert grammar(TaskSpec("chat", quote=True), {"question": "hello"}) is None
    assert grammar(TaskSpec("chat"), {"question": "hello", "passage": PASSAGE}) is None


def test_entities_out_of_order_or_twice_still_have_their_places() -> None:
    text = "Ann met Bob and Ann"
    assert [(e.start, e.text) for e in extract.parse_entities("P= Bob\nP= Ann\nP= Ann\nP= Ann", ["P"], text)] == [(0, "Ann"), (8, "Bob"), (16, "Ann")]
    with pytest.raises(ValueError, match="is not in the text"):
        extract.parse_entities("P= Eve", ["P"], text)
