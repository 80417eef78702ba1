"""A version made again from its manifest: the same examples, the same training, and how near the scores come."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from schemas.events import AdapterVersion
from schemas.topics import BASE
from trainers.progress import Report
from trainers.run import RunSpec, base_folder, make, read_rows
from trainers.snapshot import dataset_sha256

TOLERANCE = 0.02
"""By how much a score may differ, and a perplexity in relation: the same machine gives the same one, another adds up in another order."""


@dataclass(frozen=True, slots=True)
class Remade:
    """`missing` examples of the manifest are withdrawn from the topics or forgotten; `scores` maps each to what it was and is."""

    examples: int
    missing: int
    same_dataset: bool
    same_weights: bool
    scores: Mapping[str, tuple[float, float]]

    @property
    def holds(self) -> bool:
        """Whether the dataset is the same byte for byte, and the scores within TOLERANCE."""
        return self.same_dataset and all(is_near(was, now) for was, now in self.scores.values())


def remake(spec: RunSpec, version: AdapterVersion, manifest: Mapping[str, Any], report: Report) -> Remade:
    """`version` made again in a folder of its own; nothing is published.

    Raises:
        LoomError: an artifact is not what the registry says.
    """
    rows = read_rows(spec)
    ids = {row.example_id for row in rows}
    with tempfile.TemporaryDirectory(prefix="loom-remake-") as folder:
        made = make(spec, base_folder(spec), rows, Path(folder), report)
        weights = hashlib.sha256((Path(folder) / made.files[0]).read_bytes()).hexdigest()
    names = [name for name in made.metrics if name in version.metrics and name in scores_of(spec.name, version.metrics)]
    return Remade(
        len(rows), sum(one not in ids for one in manifest["example_ids"]), dataset_sha256(rows) == manifest["dataset_sha256"], weights == version.files[0].sha256,
        {name: (version.metrics[name], made.metrics[name]) for name in names},
    )  # fmt: skip


def scores_of(name: str, metrics: Mapping[str, float]) -> list[str]:
    """The names of the scores among `metrics`: what the base alone has too, and its own. Pure."""
    if name == BASE:
        return ["perplexity"]
    return [metric for metric in metrics if f"base_{metric}" in metrics]


def is_near(was: float, now: float) -> bool:
    """Whether a score is the same within TOLERANCE; in relation where it is above one, as a perplexity is. Pure."""
    return abs(was - now) <= TOLERANCE * max(1.0, abs(was))
