"""Ids that are pure functions of what they name."""

from __future__ import annotations

import hashlib
import hmac
import json
from typing import Any


def digest(*parts: str | int | bytes) -> str:
    """A 32-digit hex id of `parts`; parts can't run into one another."""
    state = hashlib.sha256()
    for part in parts:
        data = part if isinstance(part, bytes) else str(part).encode()
        state.update(len(data).to_bytes(8, "big") + data)
    return state.hexdigest()[:32]


def keyed_hash(key: bytes, text: str) -> str:
    """HMAC-SHA256 of `text` in hex, so that who lacks the key can't test guesses."""
    return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()


def canonical_json(value: Any) -> str:
    """One spelling for one value: sorted keys, no blanks, no escapes beyond JSON's own."""
    return json.dumps(value, ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
