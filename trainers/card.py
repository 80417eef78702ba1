"""The card of a version: what it is, how good, made of what and under which licences, as the Hugging Face Hub reads it (model cards). Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from schemas.events import Split
from schemas.topics import BASE
from trainers.artifact import Made
from trainers.snapshot import Manifest, Row

CPT_TAG = "continued-pretraining"
NO_LICENCE = "none given"


def card(name: str, run_id: str, base: str, manifest: Manifest, made: Made, rows: Sequence[Row]) -> str:
    """Of version `name`, such as tool@7, on `base`; `rows` are what it learned from and was judged by. No text of theirs is in it."""
    is_base = manifest.adapter == BASE
    licences = Counter(row.licence or NO_LICENCE for row in rows)
    known = [licence for licence in licences if licence != NO_LICENCE]
    counts = {
        "to learn from": sum(row.split is Split.TRAIN and not row.is_pair for row in rows), "pairs of answers": sum(row.split is Split.TRAIN and row.is_pair for row in rows),
        "held out": sum(row.split is Split.EVALUATION for row in rows), "corrections by users": sum(row.is_correction for row in rows), "groups that never part": len({row.group_id for row in rows}),
    }  # fmt: skip
    task = CPT_TAG if is_base else str(manifest.declaration.get("task", ""))
    return f"""---
library_name: {"transformers" if is_base else "peft"}
base_model: {base}
license: {known[0].lower() if len(known) == len(licences) == 1 else "other"}
tags: [loraloom, {task}{"" if is_base else ", lora"}]
---

# {name}

{"The base, pre-trained further on documents" if is_base else f"A LoRA adapter of `{base}`, for the task `{task}`"}: made by loraloom's run `{run_id}`. The gate's word: {made.verdict.reason}.

## Scores

{markdown_table("", "", {name: f"{value:.4g}" for name, value in sorted(made.metrics.items())})}

## Data

{markdown_table("", "examples", counts)}

Their digest is `{manifest.dataset_sha256}`; which they are, and at which offsets, is in `manifest.json`.

{markdown_table("licence, as given", "examples", dict(licences.most_common()))}

## Recipe

{markdown_table("", "", _flat(manifest.declaration.get("recipe", {})) | {f"dpo.{name}": value for name, value in _flat(manifest.declaration.get("dpo") or {}).items()})}
"""


def _flat(declared: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in declared.items() if not isinstance(value, (dict, list))}


def markdown_table(left: str, right: str, cells: Mapping[str, Any]) -> str:
    """Markdown of two columns."""
    return "\n".join("|".join(["", *(f" {cell} " if cell != "" else " " for cell in row), ""]) for row in ((left, right), ("---", "---"), *cells.items()))
