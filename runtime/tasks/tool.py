"""The `tool` task: from a message, a context and the declared tools, one call or none.

A tool is declared in the OpenAI form (name, description, JSON Schema of its parameters). The prompt shows each as a
one-line signature; the completion is the tool's name, then a `name= value` line an argument, by their names'
order. Open strings must be spans of the message or of the context; a required argument that neither holds is `?`. An
argument whose schema has `"x-injected": true` is the context's field of its name: prompts and completions do not have it
(the term is LangChain's, `InjectedToolArg`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.tasks.fields import parse_fields, render_field
from runtime.tasks.prompt import Prompt, one_line

NO_TOOL = "none"
INJECTED = "x-injected"
MISSING = "?"
TOOL_NAME = r"^[A-Za-z][A-Za-z0-9_.-]{0,63}$"
MOST_BROUGHT = 64
"""So many tools may come with one message."""


@dataclass(frozen=True, slots=True)
class Tool:
    """A declared tool. `parameters` is a JSON Schema object. No prompt shows `utterances`."""

    name: str
    description: str
    parameters: Mapping[str, Any] = field(default_factory=dict)
    utterances: tuple[str, ...] = ()

    @property
    def arguments(self) -> dict[str, Mapping[str, Any]]:
        """Each argument's own schema, by name. The keys of a JSON object have no order, and labels and manifests hold it sorted: in any other order training would see other prompts than serving."""
        return dict(sorted(self.parameters.get("properties", {}).items()))

    @property
    def said(self) -> dict[str, Mapping[str, Any]]:
        """The arguments that a model gives: those that are not injected."""
        return {name: schema for name, schema in self.arguments.items() if not schema.get(INJECTED)}

    @property
    def required(self) -> frozenset[str]:
        """Names of the arguments that a call must have."""
        return frozenset(self.parameters.get("required", ()))


def brought(declarations: object) -> tuple[Tool, ...]:
    """The tools that come with a message, each as `{"name", "description", "parameters"}`; the last may be left out.

    Raises:
        ValueError: they are no list of such, too many, or two have one name.
    """
    if not isinstance(declarations, list) or len(declarations) > MOST_BROUGHT:
        raise ValueError(f"tools that come with a message are a list of at most {MOST_BROUGHT}")
    tools = tuple(map(_tool, declarations))
    if len({tool.name for tool in tools}) < len(tools):
        raise ValueError("two of the tools that come with a message have one name")
    return tools


def _tool(declared: object) -> Tool:
    match declared:
        case {"name": str(name), "description": str(description), **rest} if re.fullmatch(TOOL_NAME, name) and rest.keys() <= {"parameters"}:
            parameters: Any = rest.get("parameters", {})
            check_parameters(parameters)
            return Tool(name, description, parameters)
    raise ValueError('a tool that comes with a message is {"name", "description", "parameters"}')


def check_parameters(parameters: Any) -> None:
    """Raises ValueError where `parameters` are no JSON Schema object whose arguments a call's lines can hold."""
    match parameters:
        case {"properties": dict(properties)}:
            pass
        case dict() if "properties" not in parameters:
            properties = {}
        case _:
            raise ValueError("the parameters of a tool are a JSON Schema object")
    for name, schema in properties.items():
        if not name or "\n" in name or "= " in name:
            raise ValueError(f"a tool can't have an argument named {name!r}")
        if not isinstance(schema, dict) or not isinstance(schema.get("enum", [""]), list) or not schema.get("enum", [""]):
            raise ValueError(f"the schema of argument {name} is no JSON Schema object, or its enum no list of values")
        if schema.get(INJECTED, False) not in (True, False):
            raise ValueError(f"{INJECTED} of argument {name} is {schema[INJECTED]!r}, neither true nor false")
        try:
            re.compile(schema.get("pattern", ""))
        except (re.error, TypeError) as error:
            raise ValueError(f"the pattern of argument {name} is no regular expression: {error}") from None
    required = parameters.get("required", [])
    if not isinstance(required, list) or not all(isinstance(name, str) and name in properties for name in required):
        raise ValueError("`required` names an argument that `properties` does not have")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call. `missing` names required arguments that the text does not give."""

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    missing: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The wire form: the tool and its arguments side by side, `missing` only where there is something."""
        call = {"tool": self.tool, **self.arguments}
        return {**call, "missing": list(self.missing)} if self.missing else call


def is_same(one: Any, other: Any) -> bool:
    """Whether two calls in the wire form are the same; the order in which they name what is missing says nothing."""
    a, b = ({**call, "missing": sorted(call.get("missing", ()))} if isinstance(call, Mapping) else call for call in (one, other))
    return bool(a == b)


def signature(tool: Tool) -> str:
    """One line: `name(argument, optional?, choice: a|b) description`, without injected arguments."""

    def show(name: str, schema: Mapping[str, Any]) -> str:
        mark = "" if name in tool.required else "?"
        choices = f": {'|'.join(map(written, schema['enum']))}" if "enum" in schema else ""
        return f"{name}{mark}{choices}"

    arguments = ", ".join(show(name, schema) for name, schema in tool.said.items())
    return f"{tool.name}({arguments}) {one_line(tool.description)}".rstrip()


def render_prompt(tools: Sequence[Tool], context: Mapping[str, str], message: str) -> Prompt:
    """The prompt for `message` with `tools` on offer, in the order given, and `context` fields below them by their names' order: a JSON object's keys have no order."""
    lines = ["tools:", *map(signature, tools), "context:"]
    lines += [render_field(name, one_line(value)) for name, value in sorted(context.items())]
    return Prompt(system="\n".join(lines), user=one_line(message))


def render_call(call: ToolCall | None, tools: Sequence[Tool]) -> str:
    """The completion that stands for `call`; `None` is a refusal to call.

    Raises:
        ValueError: an unknown tool or argument.
    """
    if call is None:
        return NO_TOOL
    tool = _on_offer(call.tool, tools)
    _check_known(tool.name, [*call.arguments, *call.missing], tool.arguments)
    values = {**{name: written(value) for name, value in call.arguments.items()}, **dict.fromkeys(call.missing, MISSING)}
    return "\n".join([tool.name, *(render_field(name, values[name]) for name in tool.said if name in values)])


def parse_call(completion: str, tools: Sequence[Tool], context: Mapping[str, str]) -> ToolCall | None:
    """The call that `completion` stands for, its values cast to the types of the schema, those of injected arguments from `context`.

    Raises:
        ValueError: an unknown tool or argument, a missing required one, a value outside its enum or type.
    """
    name, *lines = completion.strip().split("\n")
    if name == NO_TOOL and not lines:
        return None
    tool = _on_offer(name, tools)
    said = dict(parse_fields(lines))
    _check_known(name, said, tool.said)
    if absent := tool.required & tool.said.keys() - said.keys():
        raise ValueError(f"{name} lacks {sorted(absent)[0]!r}")
    given = said | {argument: context.get(argument, MISSING) for argument in tool.arguments.keys() - tool.said.keys()}
    values = {argument: _cast(given[argument], schema) for argument, schema in tool.arguments.items() if given.get(argument, MISSING) != MISSING}
    missing = tuple(argument for argument in tool.arguments if argument not in values and (argument in said or argument in tool.required))
    return ToolCall(tool=name, arguments=values, missing=missing)


def _on_offer(name: str, tools: Sequence[Tool]) -> Tool:
    for tool in tools:
        if tool.name == name:
            return tool
    raise ValueError(f"no such tool on offer: {name!r}")


def _check_known(tool: str, names: Iterable[str], arguments: Mapping[str, Any]) -> None:
    if unknown := set(names) - arguments.keys():
        raise ValueError(f"{tool} has no argument {sorted(unknown)[0]!r}")


def written(value: Any) -> str:
    """An argument's value as a call's line has it."""
    return str(value).lower() if isinstance(value, bool) else one_line(str(value))


def _boolean(value: str) -> bool:
    if value not in ("true", "false"):
        raise ValueError(f"not a boolean: {value!r}")
    return value == "true"


_CASTS: Mapping[str, Callable[[str], Any]] = {"integer": int, "number": float, "boolean": _boolean}


def _cast(value: str, schema: Mapping[str, Any]) -> Any:
    """`value` as the schema's type. Raises ValueError where it is outside the enum or no such number."""
    if "enum" not in schema:
        return _CASTS.get(schema.get("type", "string"), str)(value)
    for member in schema["enum"]:
        if written(member) == value:
            return member
    raise ValueError(f"{value!r} is none of {schema['enum']}")
