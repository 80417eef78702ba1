"""Texts that nothing may be trained on, since models are judged by them: found again by shared word runs, or by meaning. Pure.

Runs as GPT-3's test sets were cleaned (Brown et al. 2020, arXiv:2005.14165, appendix C), shorter ones, since requests are
short; nearness of sentence vectors against paraphrases (Yang et al. 2023, arXiv:2311.04850).
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.errors import SettingsError

RUN_WORDS = 8
SAME_WORDS, NEAR = "an evaluation set has the same words", "an evaluation set has nearly the same text"
"""Reasons say no more: they are not sealed."""
WORD = re.compile(r"\w+")
Encode = Callable[[Sequence[str]], NDArray[np.float32]]


class HeldOut:
    """The texts of evaluation sets. `encode` gives unit vectors, (texts, dimensions); texts whose cosine reaches `similarity` are alike."""

    def __init__(self, texts: Sequence[str], similarity: float, encode: Encode) -> None:
        self._texts, self._similarity, self._encode = texts, similarity, encode
        self._runs = {run for text in texts for run in _runs(text)}
        self._vectors = encode(texts) if texts else np.zeros((0, 1), np.float32)

    def meets(self, texts: Sequence[str]) -> list[str | None]:
        """For each text why it may not be trained on; None where it may."""
        if not self._texts or not texts:
            return [None] * len(texts)
        cosines = self._encode(texts) @ self._vectors.T
        return [self._why(text, row) for text, row in zip(texts, cosines, strict=True)]

    def _why(self, text: str, cosines: NDArray[np.float32]) -> str | None:
        if any(run in self._runs for run in _runs(text)):
            return SAME_WORDS
        return NEAR if cosines.max() >= self._similarity else None


def _runs(text: str) -> Iterable[str]:
    """The runs of eight words; a shorter text is one."""
    words = WORD.findall(text.casefold())
    return [" ".join(words[i : i + RUN_WORDS]) for i in range(max(1, len(words) - RUN_WORDS + 1))] if words else []


def read_texts(files: Iterable[Path]) -> list[str]:
    """The `text` (or `question`) of every row of JSON lines files.

    Raises:
        SettingsError: a file is missing, or a line has neither.
    """
    found = []
    for file in files:
        try:
            lines = file.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise SettingsError(f"[evaluation] files: {file}: {error.strerror}") from error
        for number, line in enumerate(lines, 1):
            if line.strip():
                found.append(_text(line, f"{file}:{number}"))
    return list(dict.fromkeys(found))


def _text(line: str, place: str) -> str:
    try:
        row: Any = json.loads(line)
        text = row.get("text", row.get("question"))
    except (ValueError, AttributeError):
        text = None
    if not isinstance(text, str):
        raise SettingsError(f"{place} is no JSON object with a `text`")
    return text
