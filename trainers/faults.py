"""What is wrong with answers, beside the one score of their task: of calls and of chat. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from runtime.tasks.prompt import one_line

if TYPE_CHECKING:
    from trainers.evaluate import Asked

NOT_ARGUMENTS = ("tool", "missing")
STANDARD = re.compile(r"[ ,./\-_*^]")
Call = Mapping[str, Any]


def parts(asked: Sequence[Asked], said: Sequence[Any], each: Sequence[float]) -> dict[str, float]:
    """Named shares and means of the answers `said`, whose scores are `each`; what can't be read is no answer.

    Of `tool`: `bad_calls` (no call fits, a wrong span, an argument filled that is missing), `irrelevance_accuracy` (no call of those that want none,
    as BFCL has it), `invented_arguments`. Of `chat`: the score with a passage and without, and the share of words that the passage does not hold.
    """
    kinds = _KINDS.get(asked[0].spec.task) if asked else None
    return kinds(asked, said, each) if kinds else {}


def _of_calls(asked: Sequence[Asked], said: Sequence[Any], each: Sequence[float]) -> dict[str, float]:
    none_fits = [got is None for got, one in zip(said, asked, strict=True) if one.wanted is None]
    bad = [is_bad(got, one.wanted) for got, one in zip(said, asked, strict=True)]
    invented = [isinstance(got, Mapping) and bool(invented_arguments(got, one)) for got, one in zip(said, asked, strict=True)]
    return {"bad_calls": _mean(bad), "invented_arguments": _mean(invented), **({"irrelevance_accuracy": _mean(none_fits)} if none_fits else {})}


def is_bad(got: Any, wanted: Call | None) -> bool:
    """Whether a call would do what nobody asked for: none fits, or it is of the right tool with a value that is not wanted, also where none is.

    One that only lacks an argument is wrong, but not bad: whoever carries it out asks for what it lacks.
    """
    if not isinstance(got, Mapping):
        return False
    return wanted is None or (got["tool"] == wanted["tool"] and any(value != wanted.get(name) for name, value in got.items() if name not in NOT_ARGUMENTS))


def invented_arguments(call: Call, one: Asked) -> list[str]:
    """The names of open arguments whose values neither the message nor its context holds."""
    schemas = next((tool.arguments for tool in one.spec.tools if tool.name == call["tool"]), {})
    given = one_line(" ".join([one.given["message"], *one.given.get("context", {}).values()])).casefold()
    is_open = {name: "enum" not in schema and schema.get("type", "string") != "boolean" for name, schema in schemas.items()}
    return [name for name, value in call.items() if is_open.get(name) and one_line(str(value)).casefold() not in given]


def _of_chat(asked: Sequence[Asked], said: Sequence[Any], each: Sequence[float]) -> dict[str, float]:
    books: dict[str, list[float]] = {}
    foreign = []
    for one, got, value in zip(asked, said, each, strict=True):
        passage = one.given.get("passage")
        books.setdefault("open_book" if passage else "closed_book", []).append(value)
        if passage and isinstance(got, str) and (words := got.casefold().split()):
            held = set(passage.casefold().split())
            foreign.append(sum(word not in held for word in words) / len(words))
    return {f"token_f1_{book}": _mean(values) for book, values in books.items()} | ({"unsupported_words": _mean(foreign)} if foreign else {})


def ast_match(call: Any, tool: str, accepts: Mapping[str, Sequence[Any]]) -> bool:
    """Whether a call is one of those that BFCL accepts: `accepts` has each argument's right values, "" among them where it may be left out.

    Source: Patil et al. 2025, The Berkeley Function Calling Leaderboard, AST evaluation of simple functions: strings are compared without case and signs.
    """
    if not isinstance(call, Mapping) or call["tool"] != tool or "missing" in call:
        return False
    given = {name: value for name, value in call.items() if name not in NOT_ARGUMENTS}
    left_out = accepts.keys() - given.keys()
    known = given.keys() <= accepts.keys()
    return known and all("" in accepts[name] for name in left_out) and all(_standard(value) in map(_standard, accepts[name]) for name, value in given.items())


def _standard(value: Any) -> Any:
    return STANDARD.sub("", value).casefold().replace("'", '"') if isinstance(value, str) else (type(value) is bool, value)


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(1, len(values))


_KINDS: Mapping[str, Callable[[Sequence[Asked], Sequence[Any], Sequence[float]], dict[str, float]]] = {"tool": _of_calls, "chat": _of_chat}
