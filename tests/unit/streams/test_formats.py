"""Word documents, logs, records and wiki exports into blocks."""

from __future__ import annotations

import io
import json
from xml.sax.saxutils import escape

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import InvalidInput
from streams.parse import PARSERS, parse
from tests.support.pdf import pdf_of

WORD = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
WIKI = """The '''boiler''' heats [[water|hot water]].<ref>page 3</ref> {{Infobox|power=2}}

== Valves ==
There are two valves.
* the [[inlet]]
* the outlet

{| class="wikitable"
! Name !! Bar
|-
| inlet || 3
|-
| style="color: red" | outlet || 4
|}
<pre>
open  valve
</pre>
Done. [[Category:Heat]]"""


def seen(media: str, data: bytes) -> list[tuple[str, int, str]]:
    return [(b.kind.value, b.level, b.text) for b in parse(media, data)]


def word_document() -> bytes:
    import docx

    document, out = docx.Document(), io.BytesIO()
    document.add_heading("The hub", 1)
    document.add_paragraph("It pairs with lamps.")
    document.add_heading("Limits", 2)
    document.add_paragraph("sixty devices", style="List Bullet")
    table = document.add_table(2, 2)
    for row, cells in enumerate((("Plan", "Price"), ("Plus", "4"))):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    document.save(out)
    return out.getvalue()


def test_word_documents_keep_headings_lists_and_tables() -> None:
    assert seen(WORD, word_document()) == [
        ("heading", 1, "The hub"), ("text", 0, "It pairs with lamps."), ("heading", 2, "Limits"), ("list_item", 0, "sixty devices"), ("table", 0, "| Plan | Price |\n| --- | --- |\n| Plus | 4 |"),
    ]  # fmt: skip


@pytest.mark.parametrize(("data", "fault"), [(word_document()[:800], "damaged or cut"), (b"\xd0\xcf\x11\xe0 an old one", "an old .doc")], ids=["cut", "old"])
def test_a_word_document_that_is_none_says_why(data: bytes, fault: str) -> None:
    with pytest.raises(InvalidInput, match=fault):
        parse(WORD, data)


def test_a_log_becomes_its_templates() -> None:
    log = "".join(f"2026-01-02 03:04:{i % 60:02} sshd[{i}]: Failed password for root from 10.0.{i % 7}.{i % 250} port {4000 + i}\n" for i in range(300))
    log += "2026-01-02 03:09:00 sshd[7]: Server listening on 0.0.0.0 port 22.\n"
    failed, listening = seen("text/x-log", log.encode())
    assert failed[2] == "sshd[<number>]: Failed password for root from <address> port <number> (300 times, first: 2026-01-02 03:04:00 sshd[0]: Failed password for root from 10.0.0.0 port 4000)"
    assert listening[2] == "2026-01-02 03:09:00 sshd[7]: Server listening on 0.0.0.0 port 22."


def test_rows_become_sections() -> None:
    rows = "id;subject;state;description\n7;Hub offline;open;It went dark after the update, and since then no lamp in the whole house can be switched on or off by the app\n"
    assert seen("text/csv", rows.encode()) == [
        ("heading", 1, "Hub offline"), ("text", 0, "id: 7\nstate: open"),
        ("text", 0, "description: It went dark after the update, and since then no lamp in the whole house can be switched on or off by the app"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("media", "data"),
    [
        ("application/json", json.dumps({"tickets": [{"id": 7, "messages": [{"author": "ann", "text": "where?"}, {"author": "bot", "text": "there"}]}]})),
        ("application/json", json.dumps({"id": 7, "messages": [["ann", "where?"], ["bot", "there"]]})),
        ("application/x-ndjson", json.dumps({"id": 7, "turns": [{"role": "ann", "content": "where?"}, {"role": "bot", "content": "there"}]}) + "\n\n"),
    ],
    ids=["export", "one", "lines"],
)
def test_a_conversation_speaks_in_turn(media: str, data: str) -> None:
    assert seen(media, data.encode()) == [("heading", 1, "7"), ("text", 0, "ann: where?"), ("text", 0, "bot: there")]


def test_a_mediawiki_dump_gives_its_articles() -> None:
    def page(title: str, namespace: int, text: str) -> str:
        return f"<page><title>{title}</title><ns>{namespace}</ns><revision><text>{escape(text)}</text></revision></page>"

    dump = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">{page("Boiler", 0, WIKI)}{page("Talk:Boiler", 1, "I think")}{page("Kettle", 0, "#REDIRECT [[Boiler]]")}</mediawiki>'
    assert seen("application/x-mediawiki+xml", dump.encode()) == [
        ("heading", 1, "Boiler"), ("text", 0, "The boiler heats hot water."), ("heading", 2, "Valves"), ("text", 0, "There are two valves."), ("list_item", 0, "the inlet"),
        ("list_item", 0, "the outlet"), ("table", 0, "| Name | Bar |\n| --- | --- |\n| inlet | 3 |\n| outlet | 4 |"), ("code", 0, "open  valve"), ("text", 0, "Done."),
    ]  # fmt: skip


def test_a_confluence_space_gives_its_current_pages() -> None:
    def page(number: int, title: str, status: str) -> str:
        return f'<object class="Page"><id name="id">{number}</id><property name="title"><![CDATA[{title}]]></property><property name="contentStatus">{status}</property></object>'

    code = '<ac:structured-macro ac:name="code"><ac:parameter ac:name="language">bash</ac:parameter><ac:plain-text-body><![CDATA[drain <node>]]></ac:plain-text-body></ac:structured-macro>'
    body = escape(f"<h1>Restart</h1><p>Drain the node &amp; wait.</p>{code}")
    space = f'<hibernate-generic>{page(1, "Runbook", "current")}{page(2, "Draft", "draft")}<object class="BodyContent"><id name="id">9</id><property name="body">{body}</property><property name="content" class="Page"><id name="id">1</id></property></object></hibernate-generic>'
    assert seen("application/x-confluence+xml", space.encode()) == [("heading", 1, "Runbook"), ("heading", 2, "Restart"), ("text", 0, "Drain the node & wait."), ("code", 0, "drain <node>")]


@pytest.mark.parametrize(
    ("media", "data", "fault"),
    [
        ("application/x-mediawiki+xml", b"<mediawiki><page><title>cut", "XML can't be read"), ("application/json", b"{", "not JSON"),
        ("application/x-ndjson", b'{"a": 1}\nno', "line 2 is not JSON"), ("text/csv", b"\n\n", "first line with the names"),
        ("application/x-mediawiki+xml", b'<!DOCTYPE m [<!ENTITY x SYSTEM "file:///etc/hostname">]><mediawiki><page><title>a</title><revision><text>&x;</text></revision></page></mediawiki>', None),
    ],
    ids=["xml", "json", "lines", "csv", "entity"],
)  # fmt: skip
def test_what_is_cut_says_so_and_no_file_is_read(media: str, data: bytes, fault: str | None) -> None:
    if fault:
        with pytest.raises(InvalidInput, match=fault):
            parse(media, data)
    else:
        assert seen(media, data) == [("heading", 1, "a")]


SAMPLES = {
    WORD: word_document(), "application/pdf": pdf_of(["The hub", "pairs with lamps"]), "text/x-log": b"2026-01-02 03:04:05 sshd[1]: Failed\n" * 3, "text/csv": b"id,text\n1,two\n",
    "application/json": b'[{"id": 1, "messages": [{"role": "a", "text": "b"}]}]', "application/x-ndjson": b'{"id": 1}\n{"text": "b"}\n',
    "application/x-mediawiki+xml": f"<mediawiki><page><title>a</title><ns>0</ns><revision><text>{escape(WIKI)}</text></revision></page></mediawiki>".encode(),
    "application/x-confluence+xml": b'<hibernate-generic><object class="Page"><id>1</id><property name="title">a</property></object></hibernate-generic>',
}  # fmt: skip


def test_each_parser_but_those_of_plain_text_has_a_sample() -> None:
    assert set(SAMPLES) == set(PARSERS) - {"text/html", "text/markdown", "text/plain"}


@given(st.sampled_from(sorted(SAMPLES)), st.data())
@settings(max_examples=400, deadline=None)
def test_damage_is_met_with_blocks_or_a_clear_error(media: str, draw: st.DataObject) -> None:
    data = bytearray(SAMPLES[media])
    start = draw.draw(st.integers(0, len(data)))
    data[start : start + draw.draw(st.integers(0, 40))] = draw.draw(st.binary(max_size=20))
    try:
        found = parse(media, bytes(data))
    except InvalidInput as error:
        found = []
        said = str(error)
    assert found or said
