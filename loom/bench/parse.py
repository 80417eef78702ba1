"""`loom bench parse`: documents a second, and whether the text is as good, beside plain unstructured."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from loom.bench.compare import Row, rate, take_turns
from loom.sources import inside_of, media_type
from runtime.errors import SettingsError
from streams.parse import parse

LETTERS = re.compile(r"[^\W\d_]+")
UNMAPPED = re.compile(r"\(cid:\d+\)")
"""What pdfminer writes for a glyph that it can't read."""
RUN_LETTERS = 10
QUICK_BYTES = 600_000
Document = tuple[str, bytes]


def documents(folder: Path) -> dict[str, list[Document]]:
    """The documents of a folder that both sides can read, by their kind. Raises SettingsError where there are none."""
    found: dict[str, list[Document]] = {}
    for inside in inside_of(folder):
        data = (folder / inside).read_bytes()
        kind = media_type(inside.name, data)
        if kind in PLAIN:
            found.setdefault(kind, []).append((inside.as_posix(), data))
    if not found:
        raise SettingsError(f"{folder} holds no PDF, HTML, Markdown or text")
    return found


def _pdf(data: bytes) -> Iterable[str]:
    try:
        from unstructured.partition.pdf import partition_pdf
    except ImportError as error:
        raise SettingsError(f"the baseline of PDFs needs what unstructured leaves out by default: uv pip install 'unstructured[pdf]' ({error})") from error
    return [str(e) for e in partition_pdf(file=io.BytesIO(data), strategy="fast")]


def _html(data: bytes) -> Iterable[str]:
    from unstructured.partition.html import partition_html

    return [str(e) for e in partition_html(file=io.BytesIO(data))]


def _markdown(data: bytes) -> Iterable[str]:
    from unstructured.partition.md import partition_md

    return [str(e) for e in partition_md(file=io.BytesIO(data))]


PLAIN: dict[str, Callable[[bytes], Iterable[str]]] = {"application/pdf": _pdf, "text/html": _html, "text/markdown": _markdown}


def recall(ours: Iterable[str], theirs: Iterable[str]) -> float:
    """The share of the runs of ten letters in the texts of `theirs` that `ours` has.

    A word that a line end broke counts as one. Over the ends of their texts no run is taken: what follows what is order, and
    of a table `fast` gives one column behind the other.
    """
    mine = _letters(" ".join(ours))
    have = _runs(mine)
    wanted = {run for text in theirs for run in _runs(_letters(text))}
    return sum(run in have or (len(run) < RUN_LETTERS and run in mine) for run in wanted) / max(1, len(wanted))


def _letters(text: str) -> str:
    return "".join(LETTERS.findall(UNMAPPED.sub("", text).casefold()))


def _runs(letters: str) -> set[str]:
    return {letters[i : i + RUN_LETTERS] for i in range(max(1, len(letters) - RUN_LETTERS + 1))} - {""}


def parse_rows(folder: Path, quick: bool) -> list[Row]:
    """Rows for each kind of document in `folder`; `quick` leaves out the long ones. Raises SettingsError for an empty folder."""
    from streams.parse import by_unstructured

    by_unstructured.offline()  # plain unstructured would fetch a model
    rows: list[Row] = []
    for kind, all_of_them in documents(folder).items():
        chosen = [one for one in all_of_them if not quick or len(one[1]) < QUICK_BYTES]
        if chosen:
            rows += _compared(kind, chosen)
    return rows


def _compared(kind: str, chosen: Sequence[Document]) -> list[Row]:
    pages, unit = (_pages(chosen), "pages/s") if kind == "application/pdf" else (len(chosen), "documents/s")
    megabytes = sum(len(data) for _, data in chosen) / 1e6
    values = take_turns({
        "ours": rate(pages, lambda: [parse(kind, data) for _, data in chosen]),
        "plain": rate(pages, lambda: [PLAIN[kind](data) for _, data in chosen]),
    })  # fmt: skip
    kept = [recall((b.text for b in parse(kind, data)), PLAIN[kind](data)) for _, data in chosen]
    return [
        Row.of(f"{kind}: speed, {pages} {unit.partition('/')[0]}", unit, values["ours"], values["plain"], 10 if kind == "application/pdf" else None),
        Row.of(f"{kind}: MB/s", "MB/s", [v * megabytes / pages for v in values["ours"]], [v * megabytes / pages for v in values["plain"]]),
        Row.of(f"{kind}: unstructured's text that ours has, the worst document", "", [min(kept)], goal=0.95),
    ]


def _pages(chosen: Sequence[Document]) -> int:
    import pypdfium2

    total = 0
    for _, data in chosen:
        document = pypdfium2.PdfDocument(data)
        total += len(document)
        document.close()
    return total
