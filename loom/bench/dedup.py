"""`loom bench dedup`: do verdicts name the twins that are there, and how fast; beside datasketch, the library that most use."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loom.bench.compare import Row, rate, take_turns
from runtime.errors import SettingsError
from runtime.ids import keyed_hash
from runtime.tasks.prompt import normalised
from streams.cut import BUDGET_TOKENS, token_counter
from streams.twins import MIN_WORDS, PERMUTATIONS, THRESHOLD, Claim, Index, Print, Twin, prints, runs, words_of

SECRET = b"benchmark" * 4
DOCUMENT_CHUNKS = 20
TURNS = 20
"""Documents that the full store and the empty one judge by turns: so few that the empty one stays small."""
FULL_OVER_EMPTY = "verdicts with the full store over an empty one, by turns"


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk of one of the two editions."""

    chunk_id: str
    edition: str
    path: str
    text: str
    print: Print
    twin: Twin | None


def editions(folder: Path) -> list[dict[str, str]]:
    """The rows of `pairs.csv`. Raises SettingsError where the folder holds none."""
    table = folder / "pairs.csv"
    if not table.exists():
        raise SettingsError(f"{table} is missing: it names the pairs as path, …, relation (identical, near or changed), with each edition in a folder beside it")
    with table.open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


def judged(folder: Path, pairs: Sequence[dict[str, str]], count_tokens: Any) -> list[Piece]:
    """Every chunk of both editions with its verdict, the older edition first."""
    from streams.chunking import chunk
    from streams.parse import parse

    older, newer = sorted(f.name for f in folder.iterdir() if f.is_dir())
    index, pieces = Index(), []
    for edition in (older, newer):
        for row in pairs:
            texts = [c.text for c in chunk(parse("text/markdown", (folder / edition / row["path"]).read_bytes()), BUDGET_TOKENS, count_tokens)]
            found = prints(texts, [normalised(text) for text in texts], SECRET)
            for ordinal, (text, own) in enumerate(zip(texts, found, strict=True)):
                chunk_id = f"{edition}/{row['path']}#{ordinal}"
                twin = index.twin(own)
                pieces.append(Piece(chunk_id, edition, row["path"], text, own, twin))
                if twin is None:
                    index.add(Claim(chunk_id, own))
    return pieces


def accuracy(pieces: Sequence[Piece]) -> tuple[float, float]:
    """Recall and precision of the near verdicts against the exact Jaccard of every live chunk before."""
    exact = {p.chunk_id: frozenset(runs(words)) for p in pieces if len(words := words_of(p.text)) >= MIN_WORDS}
    live: list[frozenset[str]] = []
    right = wrong = missed = 0
    for piece in pieces:
        own = exact.get(piece.chunk_id)
        if own is None:
            continue
        if piece.twin is None:
            missed += any(_jaccard(own, other) >= THRESHOLD for other in live)
            live.append(own)
        elif piece.twin.similarity < 1.0:
            alike = _jaccard(own, exact[piece.twin.chunk_id]) >= THRESHOLD
            right, wrong = right + alike, wrong + (not alike)
    return right / max(1, right + missed), right / max(1, right + wrong)


def shares(pieces: Sequence[Piece], pairs: Sequence[dict[str, str]]) -> dict[str, float]:
    """Of each relation, the share of the newer edition's chunks that have a twin."""
    newer = max(p.edition for p in pieces)
    relation = {row["path"]: row["relation"] for row in pairs}
    found: dict[str, list[bool]] = {}
    for piece in pieces:
        if piece.edition == newer:
            found.setdefault(relation[piece.path], []).append(piece.twin is not None)
    return {name: sum(twins) / len(twins) for name, twins in found.items()}


def speed(texts: Sequence[str], rounds: int) -> list[Row]:
    """Signatures a second, ours and datasketch's, of the same sets of word runs."""
    from datasketch import MinHash
    from rensa import RMinHash

    sets = [list(dict.fromkeys(runs(words_of(text)))) for text in texts]

    def one_by_one() -> None:
        for tokens in sets:
            made = MinHash(num_perm=PERMUTATIONS)
            for token in tokens:
                made.update(token.encode())

    def in_bulk() -> None:
        MinHash.bulk([[token.encode() for token in tokens] for tokens in sets], num_perm=PERMUTATIONS)

    values = take_turns({
        "ours": rate(len(sets), lambda: RMinHash.digests_from_token_sets(sets, PERMUTATIONS, 1)),
        "update": rate(len(sets), one_by_one),
        "bulk": rate(len(sets), in_bulk),
        "prints": rate(len(texts), lambda: prints(texts, texts, SECRET)),
    }, rounds)  # fmt: skip
    return [
        Row.of("signatures, datasketch by update()", "chunks/s", values["ours"], values["update"], 50),
        Row.of("signatures, datasketch by bulk()", "chunks/s", values["ours"], values["bulk"]),
        Row.of("whole prints: words, runs, signature, bands", "chunks/s", values["prints"]),
    ]


async def store(texts: Sequence[str], count: int) -> list[Row]:
    """Verdicts a second with a shared store that `count` chunks are in, beside one that is empty at first, and what it holds a million live chunks in."""
    from loom.embedded.postgres import EmbeddedPostgres
    from runtime.database import connect, migrate
    from streams.verdicts import Candidate, VerdictStore

    async def pace(verdicts: VerdictStore, number: int) -> float:
        """The chunks a second of one document."""
        name, own = _document(texts, number)
        found = prints(own, [keyed_hash(SECRET, text) for text in own], SECRET)
        candidates = [Candidate(f"{name}#{i}", i, p) for i, p in enumerate(found)]
        began = time.perf_counter()
        await verdicts.judge(name, 1, candidates, b"", name)
        return len(own) / (time.perf_counter() - began)

    with tempfile.TemporaryDirectory(prefix="loom-bench-") as folder:
        postgres = EmbeddedPostgres(Path(folder) / "postgres")
        await asyncio.to_thread(postgres.start)
        try:
            await asyncio.to_thread(migrate, postgres.url)
            async with await connect(postgres.url) as pool:
                await pool.execute("CREATE DATABASE empty")
                beside = urlsplit(postgres.url)._replace(path="/empty").geturl()
                await asyncio.to_thread(migrate, beside)
                async with await connect(beside) as other:
                    full, empty = VerdictStore(pool), VerdictStore(other)
                    documents = count // DOCUMENT_CHUNKS
                    filling = [await pace(full, number) for number in range(documents)]
                    live = await pool.fetchval("SELECT count(*) FROM chunk_claims")
                    size = await pool.fetchval("SELECT pg_total_relation_size('chunk_claims')")
                    turns = [(await pace(full, number), await pace(empty, number)) for number in range(documents, documents + TURNS)]
        finally:
            await asyncio.to_thread(postgres.stop)
    return [
        Row.of(f"whole verdicts as the shared store fills, {count:,} chunks", "chunks/s", filling),
        Row.of(FULL_OVER_EMPTY, "chunks/s", [ours for ours, _ in turns], [theirs for _, theirs in turns]),
        Row.of("the store, a million live chunks", "MiB", [size / live * 1e6 / 2**20]),
    ]


def _document(texts: Sequence[str], number: int) -> tuple[str, list[str]]:
    """A document of real chunks, of which most are made different by a word in five, and some are left as they are."""
    name = f"d{number}"
    own = []
    for i in range(DOCUMENT_CHUNKS):
        salt = hashlib.blake2b(f"{name}-{i}".encode(), digest_size=4).hexdigest()
        words = texts[(number * DOCUMENT_CHUNKS + i) % len(texts)].split()
        own.append(" ".join(words if i % 10 == 0 else [f"{word}{salt}" if w % 5 == 0 else word for w, word in enumerate(words)]))
    return name, own


def _jaccard(one: frozenset[str], other: frozenset[str]) -> float:
    small, large = sorted((len(one), len(other)))
    return len(one & other) / len(one | other) if small >= THRESHOLD * large else 0.0


def dedup(folder: Path, quick: bool) -> list[Row]:
    """All rows; `quick` takes a tenth of the chunks for what is timed. Raises SettingsError where `folder` holds no pairs."""
    pairs = editions(folder)
    pieces = judged(folder, pairs, token_counter(str(Path(__file__).parents[2] / "models" / "base")))
    recall, precision = accuracy(pieces)
    texts = [p.text for p in pieces if p.print.bands]
    rounds = 5
    return [
        Row.of("near twins: recall against the exact Jaccard", "", [recall], goal=0.95),
        Row.of("near twins: precision", "", [precision], goal=0.95),
        *(Row.of(f"chunks with a twin in {relation} documents", "", [share]) for relation, share in sorted(shares(pieces, pairs).items())),
        *speed(texts[: len(texts) // 10] if quick else texts, rounds),
        *asyncio.run(store(texts, 2_000 if quick else 50_000)),
    ]
