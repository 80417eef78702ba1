"""Dialects of Markdown."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.parse.dialects import plain_markdown


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ('{{% alert title="Note" color="primary" %}}\nUse it.\n{{% /alert %}}', "**Note:**\n\nUse it."),
        ('{{< tabs "Linux" "Mac OS">}}\n{{% codetab %}}\none\n{{% /codetab %}}\n{{% codetab %}}\ntwo\n{{% /codetab %}}\n{{< /tabs >}}', "**Linux:**\n\none\n\n**Mac OS:**\n\ntwo"),
        ("See [the list]({{< ref list.md >}}), please.", "See [the list](), please."),
        ('!!! warning "Take care"\n    It is hot.\n\n    Very.\n\nAfter.', "**Take care:**\n\nIt is hot.\n\nVery.\n\nAfter."),
        ("??? note\n    ```sh\n    ls\n    ```\nAfter.", "**Note:**\n\n```sh\nls\n```\nAfter."),
        (":::tip Good to know\nIt works.\n:::\nAfter.", "**Good to know:**\n\nIt works.\n\nAfter."),
        (":::danger[Stop]\nNo.\n:::", "**Stop:**\n\nNo."),
        ("> [!IMPORTANT]\n> Read this.", "> **Important:**\n> Read this."),
        ('--8<-- "snippets/a.md"\nText.', "Text."),
        ("{% include nav.html %}\nText {% raw %}here{% endraw %}.", "Text here."),
        ("import Tabs from '@theme/Tabs';\n\nText.", "Text."),
        ("A <!-- hidden --> word.", "A  word."),
        ("```\n{{< tabs >}}\n::: no\n```", "```\n{{< tabs >}}\n::: no\n```"),
        ("```sh\nls\n\n```go\nx\n```\nText.", "```sh\nls\n\n```\n\n```go\nx\n```\nText."),
        ("````\n```go\nx\n```\n````\nText.", "````\n```go\nx\n```\n````\nText."),
        ("import this from that is no code.", "import this from that is no code."),
    ],
)
def test_dialects_become_plain(source: str, plain: str) -> None:
    assert re.sub(r"\n{2,}", "\n\n", plain_markdown(source)[1]).strip() == plain


@pytest.mark.parametrize(
    ("source", "title"),
    [('---\ntype: docs\ntitle: "The hub"\n---\nBody', "The hub"), ("+++\ntitle = 'The hub'\n+++\nBody", "The hub"), ("---\nweight: 3\n---\nBody", None), ("Body\n---\ntitle: no\n---", None)],
)
def test_front_matter_gives_a_title(source: str, title: str | None) -> None:
    found, body = plain_markdown(source)
    assert found == title
    assert "Body" in body


@given(st.lists(st.sampled_from(["plain words", "```", "    indented", "- item", "# Head", "", "| a | b |", "a: b"]), max_size=20))
def test_plain_markdown_stays_as_it_is(lines: list[str]) -> None:
    source = "\n".join(lines)
    assert plain_markdown(f"x\n{source}")[1].split("\n")[1:] == source.splitlines() or not source
