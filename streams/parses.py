"""The pieces of each revision, cut once ever: kept sealed in the object store under the hash of the content and of all that cuts it.

So a crash, a twin's new verdict and a replay parse nothing twice; another parser, tokenizer or policy parses anew.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from importlib.metadata import version
from pathlib import Path

from runtime.errors import IntegrityError, InvalidInput
from runtime.ids import canonical_json, digest, keyed_hash
from runtime.sealing import HASH_OWNER, Key, open_bytes, seal_bytes
from runtime.tasks.prompt import normalised
from schemas.events import Revision
from streams.chunking import ChunkText
from streams.context import Context, document_owner
from streams.cut import Cutting, Piece
from streams.pool import CutterPool
from streams.privacy import Pii
from streams.twins import prints

SOURCES = ("parse", "chunking.py", "cut.py", "privacy.py")
LIBRARIES = ("beautifulsoup4", "charset-normalizer", "drain3", "ftfy", "lxml", "mwparserfromhell", "presidio-analyzer", "py3langid", "pypdfium2", "spacy", "unstructured")


class Parses:
    """Pieces by revision."""

    def __init__(self, context: Context, cutters: CutterPool) -> None:
        self._context, self._cutters = context, cutters

    async def pieces(self, revision: Revision) -> list[Piece]:
        """The pieces of a revision that is not deleted.

        Raises:
            InvalidInput: it has no copy, or can't be parsed.
            KeyDestroyed: its text is forgotten.
        """
        if revision.copy is None:
            raise InvalidInput(f"revision {revision.revision} of {revision.doc_id} has no copy")
        key = await self._context.keys.key(document_owner(revision.doc_id))
        secret = (await self._context.keys.key(HASH_OWNER)).secret
        project = self._context.project
        how = Cutting(project.base_folder, Pii(project.documents.pii), secret)
        name = f"parses/{digest(revision.doc_id)}/{digest(revision.content_hash or '', revision.media_type, made_by(how.base, how.pii))}"
        known = await self._known(name, key)
        if known is not None:
            return await asyncio.to_thread(_pieces, known, secret)
        sealed = await self._context.objects.claim(revision.copy)
        data = open_bytes(key, f"{revision.doc_id}@{revision.revision}", sealed[:12], sealed[12:])
        pieces = await self._cutters.cut(revision.media_type, data, how)
        nonce, ciphertext = seal_bytes(key, name, _written(pieces))
        await self._context.objects.put(name, nonce + ciphertext)
        return pieces

    async def _known(self, name: str, key: Key) -> bytes | None:
        try:
            sealed = await self._context.objects.get(name)
            return open_bytes(key, name, sealed[:12], sealed[12:])
        except IntegrityError:
            return None  # never cut, or damaged since


def _written(pieces: Sequence[Piece]) -> bytes:
    return canonical_json([{"text": asdict(p.text), "language": p.language, "pii": p.pii} for p in pieces]).encode()


def _pieces(written: bytes, secret: bytes) -> list[Piece]:
    rows = json.loads(written)
    texts = [ChunkText(**row["text"] | {"heading_path": tuple(row["text"]["heading_path"])}) for row in rows]
    found = prints([text.text for text in texts], [keyed_hash(secret, normalised(text.text)) for text in texts], secret)
    return [Piece(text, own, row["language"], row["pii"]) for text, own, row in zip(texts, found, rows, strict=True)]


@cache
def made_by(base: str, pii: Pii) -> str:
    """The hash of what cuts documents: our code, the libraries, the tokenizer that counts, the policy."""
    folder = Path(__file__).parent
    files = [file for source in SOURCES for file in (sorted((folder / source).glob("*.py")) if source == "parse" else [folder / source])]
    code = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    tokenizer = Path(base) / "tokenizer.json"
    counted = hashlib.sha256(tokenizer.read_bytes()).hexdigest() if tokenizer.exists() else base
    return digest(*code, *map(version, LIBRARIES), counted, pii.value)
