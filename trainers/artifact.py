"""What training hands over to be published."""

from __future__ import annotations

from dataclasses import dataclass

from trainers.gate import Verdict


@dataclass(frozen=True, slots=True)
class Made:
    """What training left in its folder: the files to publish (the first are weights), the scores, the gate's word."""

    files: tuple[str, ...]
    metrics: dict[str, float]
    verdict: Verdict
