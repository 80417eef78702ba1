"""A document into the pieces that become its chunks: parsed, repaired, split, freed of personal data, its language told. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

from runtime.ids import keyed_hash
from runtime.tasks.prompt import normalised
from streams.chunking import ChunkText, chunk
from streams.parse import parse
from streams.privacy import Pii, protect
from streams.twins import Print, prints

BUDGET_TOKENS = 256
LANGUAGE_CHARACTERS = 120
"""A shorter piece is told by its document."""
TOLD_CHARACTERS = 4000


@dataclass(frozen=True, slots=True)
class Cutting:
    """How documents are cut: by the tokens of the base model in a folder or of the hub, under a policy, with the key of the hashes."""

    base: str
    pii: Pii
    secret: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk before it has an id: its text, what it is recognised by, its language (ISO 639-1), how much personal data was in it."""

    text: ChunkText
    print: Print
    language: str
    pii: Mapping[str, int]


def cut(media_type: str, data: bytes, how: Cutting) -> list[Piece]:
    """The pieces of a document. Raises InvalidInput as `parse` does."""
    count = token_counter(how.base)
    protected = [_protected(text, how, count) for text in chunk(parse(media_type, data), BUDGET_TOKENS, count)]
    texts = [text.text for text, _ in protected]
    found = prints(texts, [keyed_hash(how.secret, normalised(text)) for text in texts], how.secret)
    whole = language("\n".join(texts)[:TOLD_CHARACTERS])
    return [Piece(text, own, language(text.text) if len(text.text) >= LANGUAGE_CHARACTERS else whole, pii) for (text, pii), own in zip(protected, found, strict=True)]


def language(text: str) -> str:
    """The likeliest language of `text`. Source: Lui and Baldwin 2012, langid.py."""
    import py3langid

    told: str = py3langid.classify(text)[0]
    return told


def _protected(text: ChunkText, how: Cutting, count: Callable[[str], int]) -> tuple[ChunkText, Mapping[str, int]]:
    said, _ = protect(text.text[: text.overlap], how.pii, how.secret)
    own, found = protect(text.text[text.overlap :], how.pii, how.secret)
    body = said + own
    paths = [protect(title, how.pii, how.secret) for title in text.heading_path]
    if body == text.text and all(title == old for (title, _), old in zip(paths, text.heading_path, strict=True)):
        return text, found
    return replace(text, text=body, heading_path=tuple(title for title, _ in paths), token_count=count(body), overlap=len(said)), found


@cache
def token_counter(base: str) -> Callable[[str], int]:
    """Counts the base's tokens of a text; without transformers, where the folder has a fast tokenizer."""
    path = Path(base) / "tokenizer.json"
    if path.exists():
        from tokenizers import Tokenizer

        tokenizer = Tokenizer.from_file(str(path))
        return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
    from transformers import AutoTokenizer

    slow = AutoTokenizer.from_pretrained(base)
    return lambda text: len(slow.encode(text, add_special_tokens=False))
