"""Imports of libraries that take more than they need."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

# transformers too: loaded while torch is hidden, it would remember that there is none
HIDDEN = ("torch", "transformers")


@contextmanager
def without_torch() -> Iterator[None]:
    """As if torch were not installed, for all threads: spaCy would load it and what builds on it, half a gigabyte and ten seconds for nothing."""
    loaded = {name: sys.modules[name] for name in HIDDEN if name in sys.modules}
    sys.modules.update(dict.fromkeys(HIDDEN))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name in HIDDEN:
            del sys.modules[name]
        sys.modules.update(loaded)
