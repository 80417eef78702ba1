"""Each task's output as an EBNF grammar (XGrammar's dialect), the same in evaluation and in serving.

A copied value is a span of words of the message or of a context value: the grammar has a rule a word, which goes on to
the next word's rule or ends, so its size is linear in the text. Where the argument's schema has a `pattern` or the
`format` email, only the spans that match it are admitted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.tasks.chat import sentences
from runtime.tasks.extract import NO_ENTITY
from runtime.tasks.prompt import one_line
from runtime.tasks.samples import TaskSpec
from runtime.tasks.tool import MISSING, NO_TOOL, Tool, written

WORD = re.compile(r"^(\W*)(.*?)((?:['’]s)?\W*)$", re.DOTALL)
MAX_TOKENS = {"classify": 64, "tool": 96, "extract": 160, "chat": 96}
MAX_PATTERN_WORDS = 6
MAX_QUOTED = 3
FORMATS = {"email": r"^[^@\s]+@[^@\s]+\.[A-Za-z]{2,}$"}
NUMBER = {"integer": '"-"? [0-9]+', "number": '"-"? [0-9]+ ("." [0-9]+)?', "boolean": '"true" | "false"'}


def grammar(spec: TaskSpec, given: Mapping[str, Any]) -> str | None:
    """The grammar of the completions for one input; None where any text may be answered."""
    if spec.task == "classify":
        return f"root ::= {_choice(spec.labels)}"
    if spec.task == "tool":
        return _tool_grammar(spec.tools, one_line(given["message"]), given.get("context", {}))
    if spec.task == "extract":
        entity = f'entity ::= ({_choice(spec.labels)}) "= " span'
        return "\n".join([f'root ::= {_quoted(NO_ENTITY)} | entity ("\\n" entity)*', entity, *_span_rules("span", [one_line(given["text"])])])
    if spec.quote and (found := sentences(given.get("passage", ""))):
        return f'root ::= sentence (" " sentence){{0,{MAX_QUOTED - 1}}}\nsentence ::= {_choice(found)}'
    return None


def json_grammar(schema: Mapping[str, Any] | None) -> str:
    """The grammar of the JSON texts that follow `schema`, of any object where that is None, without white space that no one needs.

    Raises:
        ValueError: it is no schema, or has what no grammar can say.
    """
    import xgrammar

    try:
        return str(xgrammar.Grammar.from_json_schema(json.dumps({"type": "object"} if schema is None else schema), any_whitespace=False))
    except RuntimeError as error:
        raise ValueError(f"no grammar can be made of this schema: {str(error).splitlines()[-1][:200]}") from error


def _tool_grammar(tools: Sequence[Tool], message: str, context: Mapping[str, str]) -> str:
    calls, rules = [_quoted(NO_TOOL)], []
    for tool in tools:
        parts = [_quoted(tool.name)]
        for name, schema in tool.said.items():
            lead, value = _quoted(f"\n{name}= "), _value(schema, [message, *map(one_line, context.values())])
            if name in tool.required:
                parts.append(f"{lead} ({' | '.join(filter(None, [value, _quoted(MISSING)]))})")
            elif value:
                parts.append(f"({lead} ({value}))?")
        calls.append(" ".join(parts))
    rules.append("root ::= " + " | ".join(f"({call})" for call in calls))
    return "\n".join([*rules, *_span_rules("span", [message, *map(one_line, context.values())])])


def _value(schema: Mapping[str, Any], texts: Sequence[str]) -> str:
    """What an argument may be; empty when the texts hold nothing that its pattern admits."""
    if "enum" in schema:
        return _choice([written(value) for value in schema["enum"]])
    pattern = schema.get("pattern") or FORMATS.get(schema.get("format", ""))
    if pattern:
        return _choice(matching_spans(pattern, texts))
    return NUMBER.get(schema.get("type", "string"), "span")


def matching_spans(pattern: str, texts: Sequence[str]) -> list[str]:
    """The runs of up to six words of `texts`, without the signs around them, that `pattern` finds (JSON Schema, `pattern`)."""
    found: dict[str, None] = {}
    for text in texts:
        words = [WORD.match(word).groups() for word in text.split(" ")]  # type: ignore[union-attr]
        for start in range(len(words)):
            for end in range(start + 1, min(len(words), start + MAX_PATTERN_WORDS) + 1):
                inner = [core if i == start else lead + core for i, (lead, core, _) in enumerate(words[start:end], start)]
                span = " ".join(core + (words[i][2] if i < end - 1 else "") for i, core in enumerate(inner, start))
                if span and re.search(pattern, span):
                    found[span] = None
    return list(found)


def _span_rules(name: str, texts: Sequence[str]) -> list[str]:
    """`name` matches any run of words of one of `texts`, without the signs around its first and last word."""
    starts, rules = [], []
    for t, text in enumerate(texts):
        words = text.split(" ")
        for i, word in enumerate(words):
            lead, core, trail = WORD.match(word).groups()  # type: ignore[union-attr]
            rule = f"{name}{t}x{i}"
            following = f"{_quoted(trail + ' ')} {name}{t}y{i + 1}" if i + 1 < len(words) else ""
            if core:
                ends = [f"({following})" if following else ""] if not trail else [_quoted(trail), f"({following})" if following else ""]
                options = " | ".join(end for end in ends if end)
                rules.append(f"{rule} ::= {_quoted(core)}" + (f" ({options})?" if options else ""))
                starts += [rule, f"{_quoted(lead)} {rule}"] if lead else [rule]
                rules.append(f"{name}{t}y{i} ::= " + (f"{_quoted(lead)} {rule}" if lead else rule))
            else:
                rest = f"{_quoted(word)} {_quoted(' ')} {name}{t}y{i + 1}" if i + 1 < len(words) else _quoted(word or " ")
                rules.append(f"{name}{t}y{i} ::= {rest}")
    used = set(re.findall(rf"{name}\d+[xy]\d+", " ".join(starts)))
    rules = _reachable(rules, used)
    return [f"{name} ::= " + (" | ".join(starts) or _quoted(MISSING)), *rules]


def _reachable(rules: Sequence[str], roots: set[str]) -> list[str]:
    """The rules that can be reached from `roots`."""
    bodies = dict(rule.split(" ::= ", 1) for rule in rules)
    todo, seen = list(roots), set(roots)
    while todo:
        for name in re.findall(r"\w+\d+[xy]\d+", re.sub(r'"(?:\\.|[^"\\])*"', "", bodies[todo.pop()])):
            if name not in seen:
                seen.add(name)
                todo.append(name)
    return [f"{name} ::= {body}" for name, body in bodies.items() if name in seen]


def _choice(values: Sequence[str]) -> str:
    return " | ".join(_quoted(value) for value in values)


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
