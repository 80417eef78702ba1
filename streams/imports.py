"""Imports of libraries that take more than they need."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_torch() -> Iterator[None]:
    """As if torch were not installed, for all threads: spaCy would load it and what builds on it, half a gigabyte and ten seconds for nothing."""
    loaded = sys.modules.get("torch")
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
        if loaded:
            sys.modules["torch"] = loaded
