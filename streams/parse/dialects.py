"""Dialects of Markdown into plain Markdown: front matter, admonitions, shortcodes, tabs, includes, MDX imports. Pure.

Of Hugo, MkDocs, Docusaurus, Jekyll and GitHub. Code in fences stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

FRONT_MATTER = re.compile(r"\A(?:---\r?\n(.*?)\r?\n---|\+\+\+\r?\n(.*?)\r?\n\+\+\+)\s*(?:\n|\Z)", re.DOTALL)
FRONT_TITLE = re.compile(r"^title\s*[:=]\s*[\"']?(.+?)[\"']?\s*$", re.MULTILINE)
FENCE = re.compile(r"^\s*(`{3,}|~{3,})")
LINK_TARGET = re.compile(r"\]\(\s*\{\{[<%].*?[>%]\}\}[^)]*\)")
SHORTCODE = re.compile(r"\{\{[<%]\s*(/?)\s*([\w/.-]+)(.*?)/?\s*[>%]\}\}")
QUOTED = re.compile(r"\"([^\"]*)\"|`([^`]*)`")
TITLE = re.compile(r"\b(?:title|name|header|summary)\s*=\s*[\"“]([^\"”]*)[\"”]")
TAGS = re.compile(r"\{%-?\s.*?\s-?%\}|^\s*(?:--8<--|;--8<--)\s.*$|^\s*(?:import\s.+\sfrom\s+['\"].+['\"];?|export\s+(?:const|default|function)\b.*)$|<!--.*?-->")
INDENTED = re.compile(r"^\s*(?:!!!|\?\?\?\+?)\s*(\w[\w-]*)?[^\"]*(?:\"([^\"]*)\")?\s*$")
COLONS = re.compile(r"^\s*:{3,}\s*(?:\{?(\w[\w-]*)\}?\s*(?:\[(.*?)\]|(.*?))?)?\s*$")
ALERT = re.compile(r"^(\s*>\s*)\[!(\w+)\]\s*(.*)$")
INDENT = 4


def plain_markdown(source: str) -> tuple[str | None, str]:
    """The title that the front matter names, and the body in plain Markdown."""
    front = FRONT_MATTER.match(source)
    title = FRONT_TITLE.search(front[1] or front[2] or "") if front else None
    return title[1] if title else None, "\n".join(_lines(source[front.end() :] if front else source))


def _lines(body: str) -> Iterator[str]:
    fence = ""
    inside = False  # an indented admonition
    tabs: list[str] = []
    for raw in body.splitlines():
        line, mark = raw, FENCE.match(raw)
        if fence and mark and mark[1].startswith(fence):
            language = line.strip().removeprefix(mark[1]).strip()
            if language:
                yield fence  # a fence never ends with a language: the one before was left open
                yield ""
            fence = mark[1] if language else ""
        elif not fence and mark:
            fence = mark[1]
        elif not fence and inside and line.strip() and not line.startswith((" " * INDENT, "\t")):
            inside = False
        if fence or mark:
            yield line[INDENT:] if inside and line.startswith(" " * INDENT) else line
            continue
        if inside:
            line = line.removeprefix("\t") if line.startswith("\t") else line[INDENT:]
        if (opened := INDENTED.match(line)) and (opened[1] or opened[2]):
            inside = True
            yield from _label(opened[2] or opened[1])
        elif closed := COLONS.match(line):
            yield from _label(closed[2] or closed[3] or closed[1]) if closed[1] else [""]
        elif alert := ALERT.match(line):
            yield f"{alert[1]}**{alert[2].capitalize()}:** {alert[3]}".rstrip()
        elif "{{" in line or "{%" in line or "<!--" in line or TAGS.match(line):
            yield from _without_tags(line, tabs)
        else:
            yield line


def _label(name: str) -> list[str]:
    return ["", f"**{name[:1].upper()}{name[1:].rstrip(':')}:**", ""]


def _without_tags(line: str, tabs: list[str]) -> Iterator[str]:
    """`line` without its shortcodes: of a note its title stays, of tabs their names, each before its own."""
    line = LINK_TARGET.sub("]()", line)
    labels: list[str] = []

    def shortcode(found: re.Match[str]) -> str:
        closing, name, rest = found.groups()
        if name.endswith("tabs") and not closing:
            tabs[:] = [a or b for a, b in QUOTED.findall(rest) if a or b]
        elif name.endswith("tab") and not closing:
            labels.extend(tabs[:1] or (TITLE.findall(rest) or [a or b for a, b in QUOTED.findall(rest)])[:1])
            del tabs[:1]
        elif not closing and (title := TITLE.search(rest)) and title[1]:
            labels.append(title[1])
        return ""

    kept = TAGS.sub("", SHORTCODE.sub(shortcode, line))
    for label in labels:
        yield from _label(label)
    yield kept.strip() if kept != line and not kept.strip() else kept
