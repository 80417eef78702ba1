"""Public labelled sets in their own forms to rows for `loom label` and `loom bench quality`: `python -m examples.labelled.prepare SETS OUT`.

Sets whose training part alone is there are split by document, or by line where lines are all there is.
"""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

FIFTH = 5
Row = Mapping[str, Any]


def tweets(folder: Path, part: str) -> list[Row]:
    """TweetEval: a text a line, the number of its label in another file, the names of labels in a third."""
    names = dict(line.split("\t") for line in (folder / "mapping.txt").read_text(encoding="utf-8").splitlines())
    texts, labels = ((folder / f"{part}_{kind}.txt").read_text(encoding="utf-8").splitlines() for kind in ("text", "labels"))
    return [{"id": f"{folder.name} {part} {i}", "text": text, "label": names[label].upper()} for i, (text, label) in enumerate(zip(texts, labels, strict=True)) if text.strip()]


def intents(path: Path, part: str) -> list[Row]:
    """CLINC150: pairs of a text and its intent, and those that are out of scope."""
    parts = json.loads(path.read_text(encoding="utf-8"))
    return [{"id": f"clinc {part} {i}", "text": text, "label": label} for i, (text, label) in enumerate([*parts[part], *parts[f"oos_{part}"]])]


def banking(path: Path) -> list[Row]:
    """BANKING77: a text and its category a line."""
    with path.open(encoding="utf-8", newline="") as lines:
        return [{"id": f"banking {i}", "text": row["text"], "label": row["category"]} for i, row in enumerate(csv.DictReader(lines))]


def documents(path: Path) -> Iterator[list[Row]]:
    """CoNLL: a token a line, its tag in the last column, an empty line behind each sentence, -DOCSTART- before each document."""
    document: list[Row] = []
    tokens: list[tuple[str, str]] = []
    for line in [*path.read_text(encoding="utf-8").splitlines(), "", "-DOCSTART-"]:
        columns = line.split()
        if columns and columns[0] != "-DOCSTART-":
            tokens.append((columns[0], columns[-1]))
            continue
        if tokens:
            document.append(sentence(f"{path.stem} {len(document)} {' '.join(token for token, _ in tokens)}", tokens))
            tokens = []
        if columns and document:
            yield document
            document = []


def sentence(name: str, tokens: Sequence[tuple[str, str]]) -> Row:
    """Tokens with their IOB tags, in either of its two ways, as a text with spans."""
    text, spans, before = "", [], "O"
    for token, tag in tokens:
        start = len(text) + bool(text)
        text = f"{text} {token}".strip()
        kind = tag.partition("-")[2]
        if tag != "O" and (tag.startswith("B-") or before.partition("-")[2] != kind):
            spans.append({"start": start, "end": len(text), "label": kind})
        elif tag != "O":
            spans[-1]["end"] = len(text)
        before = tag
    return {"id": name, "text": text, "entities": spans}


def parts(groups: Iterable[Sequence[Row]]) -> tuple[list[Row], list[Row]]:
    """All groups but each fifth, and each fifth."""
    groups = list(groups)
    return [row for i, group in enumerate(groups) if i % FIFTH for row in group], [row for group in groups[::FIFTH] for row in group]


def main(sets: Path, out: Path) -> None:
    """Writes NAME_train.jsonl and NAME_test.jsonl of each set to `out`."""
    out.mkdir(parents=True, exist_ok=True)
    emotion, wnut = sets / "sentiment-tweeteval/emotion", sets / "ner-wnut17"
    made = {
        "emotion": (tweets(emotion, "train"), tweets(emotion, "val")),
        "mood": parts([row] for row in tweets(sets / "sentiment-tweeteval/sentiment", "val")),
        "wnut": tuple([row for document in documents(wnut / f"{part}.conll") for row in document] for part in ("train", "dev")),
        "filings": parts(documents(sets / "ner-sec-filings/train_FIN5.conll")),
        "intent": tuple(intents(sets / "intent-clinc150/data_full_train_val.json", part) for part in ("train", "val")),
        "banking": parts([row] for row in banking(sets / "intent-banking77/train.csv")),
    }
    for name, both in made.items():
        for part, rows in zip(("train", "test"), both, strict=True):
            (out / f"{name}_{part}.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
            print(f"{name}_{part}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
