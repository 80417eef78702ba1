"""The scale on which a large model grades what it is shown: from 1, wrong, to BEST, right in every part."""

from __future__ import annotations

from typing import Any

BEST = 5
GRADE: dict[str, Any] = {"type": "integer", "minimum": 1, "maximum": BEST}
"""The JSON schema of a grade."""


def share(grade: object) -> float | None:
    """A grade as a number from 0 to 1; None where it is none. Pure."""
    return (grade - 1) / (BEST - 1) if type(grade) is int and 1 <= grade <= BEST else None
