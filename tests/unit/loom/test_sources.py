"""What is published, under which id, as which type."""

from __future__ import annotations

import io
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from loom.sources import Source, media_type, sources
from runtime.errors import SettingsError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("docs/a.md", "docs/deep/b.log", "docs/SOURCE.md", "docs/.git/config", "docs/.hidden.md", "other.pdf"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(f"content of {name}".encode())
    return tmp_path


@pytest.fixture
def served(tree: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tree)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ids(*names: str) -> list[str]:
    return [source.doc_id for source in sources(names)]


def test_a_file_has_the_same_id_by_itself_in_its_folder_and_by_a_pattern(tree: Path) -> None:
    assert ids(str(tree / "docs")) == ["docs/a.md", "docs/deep/b.log"]
    assert ids(str(tree / "docs" / "a.md")) == ids(str(tree / "docs" / "*.md")) == ["docs/a.md"]
    assert ids(str(tree / "**" / "*.log")) == ["deep/b.log"]


def test_what_is_not_there_says_so(tree: Path) -> None:
    for name in ("none.md", "*.docx"):
        with pytest.raises(SettingsError, match="no such file, folder or match"):
            ids(str(tree / name))


def test_a_file_that_went_says_so(tree: Path) -> None:
    (source,) = sources([str(tree / "other.pdf")])
    (tree / "other.pdf").unlink()
    with pytest.raises(SettingsError, match=r"other.pdf can't be read: No such file"):
        source.read()


def test_the_same_file_twice_is_the_same_revision(tree: Path) -> None:
    (source,) = sources([str(tree / "other.pdf")])
    assert source.read() == source.read()
    assert source.read().media_type == "application/pdf"


def test_an_address_is_fetched_with_its_type_and_date(tree: Path, served: str) -> None:
    (source,) = sources([f"{served}/docs/a.md"])
    assert source.doc_id == f"{served.removeprefix('http://')}/docs/a.md"
    content = source.read()
    assert (content.data, content.media_type) == (b"content of docs/a.md", "text/markdown")
    assert abs(content.revision - (tree / "docs/a.md").stat().st_mtime_ns) < 10**9


def test_an_address_that_is_not_there_says_so(served: str) -> None:
    for address in (f"{served}/none", "http://127.0.0.1:9/x"):
        with pytest.raises(SettingsError, match=f"{address} can't be fetched"):
            next(iter(sources([address]))).read()


def test_standard_input_has_a_name_and_a_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"# Title")))
    (source,) = sources(["-"], "notes/today.md")
    assert (source.doc_id, source.read().media_type) == ("notes/today.md", "text/markdown")
    assert Source("x", "-", "text/csv").media_type == "text/csv"


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("a.DOCX", b"", "application/vnd.openxmlformats-officedocument.wordprocessingml.document"), ("a.log", b"", "text/x-log"), ("a", b"", "application/octet-stream"),
        ("a.xml", b'<?xml version="1.0"?>\n<mediawiki xml:lang="en">', "application/x-mediawiki+xml"), ("a.xml", b"<svg/>", "application/xml"),
    ],
)  # fmt: skip
def test_media_types_are_told_by_name_and_of_xml_by_its_beginning(name: str, data: bytes, expected: str) -> None:
    assert media_type(name, data) == expected
