"""The line form of structured completions: a field is `name= value`, one a line.

The blank before the value is there for the tokenizer: a word copied from running text is the same token after
`= ` as it was in the text, which small models copy far better than a JSON string.
"""

from __future__ import annotations


def render_field(name: str, value: str) -> str:
    """`name= value`."""
    return f"{name}= {value}"


def parse_fields(lines: list[str]) -> list[tuple[str, str]]:
    """The (name, value) pairs of `lines`.

    Raises:
        ValueError: a line has no `= `.
    """
    pairs = []
    for line in lines:
        name, found, value = line.partition("= ")
        if not found or not name:
            raise ValueError(f"not a field: {line!r}")
        pairs.append((name, value.strip()))
    return pairs
