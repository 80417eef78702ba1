"""Blocks into chunks: along the structure, within a token budget. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from streams.parse.blocks import Block, BlockKind

CountTokens = Callable[[str], int]
SENTENCE_END = re.compile(r"(?<=[.!?;:])\s+|\n+")
OVERLAP_TOKENS = 40
"""At most so much of a section's last sentence is said again where the section is cut."""


@dataclass(frozen=True, slots=True)
class ChunkText:
    """A chunk before it has ids: Markdown, the headings above it, the pages it spans, its length in tokens; its first
    `overlap` characters are the end of the chunk before."""

    text: str
    heading_path: tuple[str, ...]
    page_first: int | None
    page_last: int | None
    token_count: int
    overlap: int = 0


def chunk(blocks: Sequence[Block], budget_tokens: int, count_tokens: CountTokens) -> list[ChunkText]:
    """The chunks of a document.

    Blocks under one heading fill a chunk up to `budget_tokens`; a block that alone exceeds it is cut at sentence ends,
    then at words. Where a section is cut, the next chunk begins with the last sentence of the one before, if it is short. A heading's
    text is in the path of its chunks, not in their text. Joined in order without their overlaps, the chunks' words are the words
    of the non-heading blocks.
    """
    chunks: list[ChunkText] = []
    for path, section in _sections(blocks):
        held: list[tuple[str, Block]] = []
        said = ""
        for text, block in _pieces(section, budget_tokens, count_tokens):
            if held and count_tokens(_join([said, *(t for t, _ in held), text])) > budget_tokens:
                chunks.append(_close(held, said, path, count_tokens))
                said = _said_again(*held[-1], text, budget_tokens, count_tokens)
                held = []
            held.append((text, block))
        if held:
            chunks.append(_close(held, said, path, count_tokens))
    return chunks


def _said_again(text: str, block: Block, following: str, budget: int, count: CountTokens) -> str:
    """The last sentence of a chunk, where it is prose, not all of it, short, and leaves room for what follows."""
    if block.kind in (BlockKind.TABLE, BlockKind.CODE):
        return ""
    *before, last = SENTENCE_END.split(text)
    return last if before and last.strip() and count(last) <= OVERLAP_TOKENS and count(_join([last, following])) <= budget else ""


def _sections(blocks: Sequence[Block]) -> Iterator[tuple[tuple[str, ...], list[Block]]]:
    """Runs of blocks under one path of headings."""
    path: list[tuple[int, str]] = []
    section: list[Block] = []
    for block in blocks:
        if block.kind is not BlockKind.HEADING:
            section.append(block)
            continue
        if section:
            yield tuple(title for _, title in path), section
            section = []
        path = [(level, title) for level, title in path if level < block.level] + [(block.level, " ".join(block.text.split()))]
    if section:
        yield tuple(title for _, title in path), section


def _pieces(section: Sequence[Block], budget: int, count: CountTokens) -> Iterator[tuple[str, Block]]:
    for block in section:
        text = block.markdown()
        if count(text) <= budget or block.kind in (BlockKind.TABLE, BlockKind.CODE):
            yield text, block
        else:
            yield from ((part, block) for part in split(text, budget, count))


def split(text: str, budget: int, count: CountTokens) -> Iterator[str]:
    """Parts of `text` of at most `budget` tokens where words allow it, cut at sentence ends first."""
    held = ""
    for sentence in SENTENCE_END.split(text):
        for part in [sentence] if count(sentence) <= budget else _by_words(sentence, budget, count):
            joined = f"{held} {part}" if held else part
            if held and count(joined) > budget:
                yield held
                held = part
            else:
                held = joined
    if held:
        yield held


def _by_words(sentence: str, budget: int, count: CountTokens) -> Iterator[str]:
    held: list[str] = []
    for word in sentence.split():
        if held and count(" ".join([*held, word])) > budget:
            yield " ".join(held)
            held = []
        held.append(word)
    if held:
        yield " ".join(held)


def _join(texts: Sequence[str]) -> str:
    return "\n\n".join(text for text in texts if text)


def _close(held: Sequence[tuple[str, Block]], said: str, path: tuple[str, ...], count: CountTokens) -> ChunkText:
    pages = [page for _, block in held for page in (block.page, block.page_last) if page is not None]
    own = _join([t for t, _ in held])
    text = _join([said, own])
    return ChunkText(text, path, min(pages, default=None), max(pages, default=None), count(text), len(text) - len(own))
