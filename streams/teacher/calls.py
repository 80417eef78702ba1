"""Messages with the calls of the declared tools that they ask for: with all arguments, with some missing, and for no tool at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from runtime.ids import canonical_json
from runtime.project import Adapter
from runtime.tasks.prompt import one_line
from runtime.tasks.tool import NO_TOOL, Tool
from streams.teacher.asks import COUNT, MALFORMED, TEXT, Ask, Assignment, Item, Row, record

INVENTED = "an argument is no span of the message"
MOST_PARTS = 3


class Calls(Ask):
    """A message in its parts, one call each: so the router cuts it, and so the adapter gets it."""

    name = "calls"
    edition = 1
    fields = ("parts",)

    def depends_on(self, adapter: Adapter) -> Sequence[Any]:
        return [*self._shown(adapter), adapter.context]

    @staticmethod
    def _shown(adapter: Adapter) -> list[Mapping[str, Any]]:
        return [{"name": t.name, "description": t.description, "parameters": _of_said(t)} for t in adapter.declared_tools]

    def instruction(self, assignment: Assignment) -> str:
        tools = "\n".join(map(canonical_json, self._shown(assignment.adapter)))
        known = f"\nThe application knows these by itself: {', '.join(assignment.adapter.context)}." if assignment.adapter.context else ""
        return f"""Write up to {COUNT} short messages that customers could send who have to do with what this passage is about, as varied in wording and length as real ones,
and the calls of these tools that answer them:
{tools}{known}
Values of arguments are copied from the message word for word, never made up. In some messages a required argument is missing: leave it out of the call.
About a third of the messages ask for nothing that a tool does, questions on the passage among them: their tool is "{NO_TOOL}".
Most messages have one part; some ask for two or three things: give their parts in order, each with its words and its own call.
Reply with JSON and nothing else: {{"calls": [{{"parts": [{{"text": "...", "tool": "...", "arguments": {{}}}}]}}]}}"""

    def row_schema(self, adapter: Adapter) -> dict[str, Any]:
        def part(name: str, arguments: Mapping[str, Any]) -> dict[str, Any]:
            given = {"type": "object", "properties": dict(arguments), "additionalProperties": False}
            return record({"text": TEXT, "tool": {"const": name}, "arguments": given})

        parts = [part(tool.name, tool.said) for tool in adapter.declared_tools]
        return record({"parts": {"type": "array", "items": {"anyOf": [*parts, part(NO_TOOL, {})]}, "minItems": 1, "maxItems": MOST_PARTS}})

    def items(self, rows: Sequence[Row], assignment: Assignment) -> list[Item]:
        return [item for row in rows for item in _parts(row, assignment.adapter)]


def _parts(row: Row, adapter: Adapter) -> Iterator[Item]:
    tools = {tool.name: tool for tool in adapter.declared_tools}
    for part in row["parts"] if isinstance(row["parts"], list) else ():
        try:
            text, name, arguments = str(part["text"]), part["tool"], dict(part["arguments"])
            calls = [] if name == NO_TOOL else [_call(tools[name], arguments, adapter.context)]
        except (KeyError, TypeError, ValueError):
            yield Item({}, {}, "", MALFORMED)
            continue
        invented = name != NO_TOOL and not _spans(tools[name], arguments, text)
        yield Item({"message": text, "context": dict(adapter.context)}, {"calls": calls}, text, INVENTED if invented else None)


def _of_said(tool: Tool) -> Mapping[str, Any]:
    """The parameters without those that are injected."""
    if tool.said == tool.arguments:
        return tool.parameters
    return {**tool.parameters, "properties": tool.said, "required": [name for name in tool.said if name in tool.required]}


def _call(tool: Tool, arguments: Mapping[str, Any], context: Mapping[str, str]) -> dict[str, Any]:
    """The call in the declared order, with what the application knows; required arguments that nobody gives are missing."""
    if unknown := arguments.keys() - tool.said.keys():
        raise ValueError(f"{tool.name} has no {min(unknown)}")
    said = {name: str(value) if tool.arguments[name].get("type", "string") == "string" else value for name, value in arguments.items()}
    known = {name: said.get(name, context.get(name)) for name in tool.arguments if name in said or (name in context and (name in tool.required or name not in tool.said))}
    missing = [name for name in tool.arguments if name in tool.required and name not in known]
    return {"tool": tool.name, **known, **({"missing": missing} if missing else {})}


def _spans(tool: Tool, arguments: Mapping[str, Any], text: str) -> bool:
    """Whether every open string among `arguments` stands in `text`."""
    schemas = tool.arguments
    strings = [str(value) for name, value in arguments.items() if schemas[name].get("type", "string") == "string" and "enum" not in schemas[name]]
    return all(one_line(value) and one_line(value) in one_line(text) for value in strings)
