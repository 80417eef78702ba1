"""Sentences of what was forgotten, and where they are searched."""

from __future__ import annotations

import asyncio
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from loom.sentences import MOST, Finding, in_files, in_objects, sentences
from runtime.objects import Objects

LINE = "The garden hub opens at nine and closes at seven, call the house"


def test_sentences_are_long_plain_and_each_once() -> None:
    assert sentences([f"# Hub\n\n{LINE}.\n\nToo short.\n", f"> {LINE}"]) == (LINE.encode(),)
    assert sentences(["Grüße aus dem Häuschen an der Straße, über den Äckern"]) == ()
    many = sentences([f"line {i:04} of a long text that has very many of them\n" for i in range(1000)])
    assert 1 < len(many) <= MOST


@given(st.lists(st.text(max_size=200), max_size=5))
def test_what_is_searched_for_is_in_the_text_as_it_is(texts: list[str]) -> None:
    for one in sentences(texts):
        assert any(one in text.encode() for text in texts)
        assert len(one) >= 40


def test_objects_and_files_are_searched_as_bytes(tmp_path: Path) -> None:
    said = (LINE.encode(),)
    objects = Objects((tmp_path / "objects").as_uri())
    asyncio.run(objects.put("copies/a/1", b"\0" + LINE.encode() + b"\xff"))
    asyncio.run(objects.put("copies/b/1", b"sealed"))
    assert asyncio.run(in_objects(objects, said)) == [Finding("object copies/a/1", 1, None)]
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/a.log").write_text(f"read: {LINE}\n")
    assert in_files(tmp_path, [tmp_path / "objects"], said) == [Finding(f"file {tmp_path / 'logs/a.log'}", 1, None)]
    assert in_files(tmp_path / "nowhere", [], said) == []


def test_what_is_deleted_is_gone_and_may_be_deleted_again(tmp_path: Path) -> None:
    objects = Objects((tmp_path / "objects").as_uri())
    for name in ("copies/a/1", "copies/a/2", "copies/ab/1"):
        asyncio.run(objects.put(name, b"x"))
    assert asyncio.run(objects.names("copies/a")) == ["copies/a/1", "copies/a/2"]
    for _ in range(2):
        asyncio.run(objects.delete(["copies/a/1", "copies/a/2"]))
    assert asyncio.run(objects.names()) == ["copies/ab/1"]
