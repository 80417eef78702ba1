"""What `loom publish` is given, as documents: files, folders, patterns, web addresses, standard input."""

from __future__ import annotations

import glob
import mimetypes
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote, urlsplit

from runtime.errors import SettingsError

MEDIA_TYPES = {
    ".md": "text/markdown", ".markdown": "text/markdown", ".html": "text/html", ".htm": "text/html", ".txt": "text/plain", ".log": "text/x-log", ".pdf": "application/pdf",
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document", ".csv": "text/csv", ".json": "application/json", ".jsonl": "application/x-ndjson", ".ndjson": "application/x-ndjson",
}  # fmt: skip
XML_TYPES = {b"<mediawiki": "application/x-mediawiki+xml", b"<hibernate-generic": "application/x-confluence+xml"}
ENCODED = ("text/markdown", "text/html", "text/plain", "text/x-log", "text/csv")
"""What the charset of a reply's header is kept for; JSON and XML say their own."""
SNIFFED_BYTES = 1024
MAX_FETCHED_BYTES = 1 << 30
NOTES = ("SOURCE.md", "LICENSE")
STDIN = "-"


@dataclass(frozen=True, slots=True)
class Content:
    """A document's bytes; `revision` grows with each change of them."""

    data: bytes
    media_type: str
    revision: int


@dataclass(frozen=True, slots=True)
class Source:
    """A document that can be read when its turn comes: from a file, an address, or standard input."""

    doc_id: str
    place: Path | str
    media_type: str | None = None

    def read(self) -> Content:
        """Its bytes now.

        Raises:
            SettingsError: a file or an address that can't be read.
        """
        if isinstance(self.place, Path):
            return self._file(self.place)
        if self.place == STDIN:
            data = sys.stdin.buffer.read()
            return Content(data, self.media_type or media_type(self.doc_id, data), time.time_ns())
        return self._fetched(self.place)

    def _file(self, path: Path) -> Content:
        try:
            data, changed = path.read_bytes(), path.stat().st_mtime_ns
        except OSError as error:
            raise SettingsError(f"{path} can't be read: {error.strerror}") from error
        return Content(data, self.media_type or media_type(path.name, data), changed)

    def _fetched(self, url: str) -> Content:
        import httpx

        data = bytearray()
        try:
            with httpx.stream("GET", url, follow_redirects=True, timeout=60) as reply:
                reply.raise_for_status()
                for part in reply.iter_bytes():
                    data += part
                    if len(data) > MAX_FETCHED_BYTES:
                        raise SettingsError(f"{url} has over {MAX_FETCHED_BYTES >> 20} MiB: fetch it, and publish the file")
        except httpx.HTTPError as error:
            raise SettingsError(f"{url} can't be fetched: {error or type(error).__name__}") from error
        said = reply.headers.get("content-type", "").partition(";")[0].strip().lower()
        named = media_type(self.doc_id, bytes(data))
        kind = self.media_type or (said if said in MEDIA_TYPES.values() and said != "text/plain" else named if named != UNKNOWN else said or UNKNOWN)
        if reply.charset_encoding and kind in ENCODED:
            kind = f"{kind}; charset={reply.charset_encoding}"
        return Content(bytes(data), kind, _nanoseconds(reply.headers.get("last-modified")))


UNKNOWN = "application/octet-stream"


def _nanoseconds(date: str | None) -> int:
    """An HTTP date in nanoseconds since 1970; now where there is none."""
    try:
        changed: datetime | None = parsedate_to_datetime(date) if date else None
    except ValueError:
        changed = None
    return int(changed.timestamp()) * 10**9 if changed else time.time_ns()


def media_type(name: str, data: bytes) -> str:
    """The media type that a name promises; of XML, what it begins with."""
    suffix = Path(name).suffix.lower()
    if suffix == ".xml":
        return next((kind for mark, kind in XML_TYPES.items() if mark in data[:SNIFFED_BYTES]), "application/xml")
    return MEDIA_TYPES.get(suffix) or mimetypes.guess_type(name)[0] or UNKNOWN


def sources(names: Iterable[str], stdin_name: str = "stdin.txt", kind: str | None = None) -> Iterator[Source]:
    """A source for every file, pattern or address of `names`, those of folders by their path in it.

    Hidden files and licence notes of folders are left out. A file has the same id by itself as in its folder.

    Raises:
        SettingsError: a path that is not there, or a pattern that fits none.
    """
    for name in names:
        path = Path(name)
        if name == STDIN:
            yield Source(stdin_name, STDIN, kind)
        elif name.startswith(("http://", "https://")):
            address = urlsplit(name)
            yield Source(f"{address.netloc}{unquote(address.path)}{'?' + address.query if address.query else ''}", name, kind)
        elif path.is_dir():
            yield from (Source(f"{path.resolve().name}/{inside.as_posix()}", path / inside, kind) for inside in inside_of(path))
        elif path.is_file():
            yield _alone(path, kind)
        else:
            matches = map(Path, sorted(glob.glob(name, recursive=True)))  # noqa: PTH207 (Path.glob takes no absolute pattern)
            found = [one for one in matches if one.is_file() and is_published(Path(one.name))]
            if not found:
                raise SettingsError(f"nothing to publish at {name}: there is no such file, folder or match")
            yield from (_alone(one, kind) for one in found)


def _alone(path: Path, kind: str | None) -> Source:
    return Source(f"{path.resolve().parent.name}/{path.name}", path, kind)


def inside_of(folder: Path) -> Iterator[Path]:
    """The files that a folder gives, relative to it, in order."""
    for file in sorted(folder.rglob("*")):
        inside = file.relative_to(folder)
        if is_published(inside) and file.is_file():
            yield inside


def is_published(inside: Path) -> bool:
    """Whether a file of a folder is a document: no hidden one, no note on the folder itself."""
    return not any(part.startswith(".") for part in inside.parts) and inside.name not in NOTES
