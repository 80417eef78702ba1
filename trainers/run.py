"""One training run, a process of its own: snapshot, train, evaluate, gate, artifact. It writes no topic: what it has to
say goes to its worker as messages, so that a run that dies can say nothing half."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.database import connect
from runtime.ids import canonical_json, digest
from runtime.objects import Objects
from runtime.project import Adapter
from runtime.sealing import PostgresKeys
from runtime.tasks.prompt import completion_ids, load_tokenizer, prompt_ids
from runtime.tasks.samples import TaskSpec, render
from schemas.codec import Codec
from schemas.events import AdapterVersion, ArtifactFile, ClaimCheck, OffsetRange, Split
from trainers.base_model import base_sha256, load_model
from trainers.evaluate import Evaluation, evaluate
from trainers.gate import Verdict, judge
from trainers.snapshot import Manifest, Row, open_rows, read_ranges

MANIFEST = "manifest.json"
PUBLISHED = ("adapter_model.safetensors", "adapter_config.json", MANIFEST)


@dataclass(frozen=True, slots=True)
class RunSpec:
    """All that a run needs to know; picklable."""

    run_id: str
    name: str
    version: int
    base_epoch: int
    base: str
    adapter: Adapter
    ranges: tuple[OffsetRange, ...]
    live: AdapterVersion | None
    broker: str
    database: str
    objects: str
    scratch: Path


@dataclass(frozen=True, slots=True)
class Progress:
    """Steps done of steps planned, and the loss of late."""

    step: int
    steps: int
    loss: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended well: the artifact in the store, its scores, the gate's word."""

    engine_name: str
    artifact_uri: str
    files: tuple[ArtifactFile, ...]
    recipe_hash: str
    manifest_sha256: str
    metrics: dict[str, float]
    verdict: Verdict


Report = Callable[[Progress], None]


def execute(spec: RunSpec, report: Report) -> Outcome:
    """Carries the run out.

    Raises:
        LoomError: a dependency failed or the data can't be read.
    """
    os.environ.setdefault("HF_HUB_OFFLINE", "1" if Path(spec.base).exists() else "0")
    rows = asyncio.run(_rows(spec))
    folder = spec.scratch / spec.run_id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    tokenizer = load_tokenizer(spec.base)
    tokens = [_tokens(spec.adapter.spec, row, tokenizer, spec.adapter.recipe.seed) for row in rows if row.split is Split.TRAIN]
    from trainers import sft

    model = sft.train(spec.base, tokens, spec.adapter.recipe, folder, lambda step, steps, loss: report(Progress(step, steps, loss)))
    candidate, base, live = _evaluations(spec, model, tokenizer, [row for row in rows if row.split is Split.EVALUATION])
    verdict = judge(spec.adapter.gate, candidate, base, live)
    outcome = asyncio.run(_publish(spec, folder, rows, candidate, base, live, verdict))
    shutil.rmtree(folder)
    return outcome


async def _rows(spec: RunSpec) -> list[Row]:
    pool = await connect(spec.database, size=1)
    try:
        return await open_rows(await read_ranges(spec.broker, spec.ranges, Codec()), PostgresKeys(pool))
    finally:
        await pool.close()


def _tokens(task: TaskSpec, row: Row, tokenizer: Any, seed: int) -> tuple[list[int], list[int]]:
    """Prompt and completion ids; what is on offer is shuffled by a seed of the example's own."""
    prompt, completion = render(task, row.body, random.Random(f"{seed}:{row.example_id}"))
    return prompt_ids(tokenizer, prompt), completion_ids(tokenizer, completion)


def _evaluations(spec: RunSpec, model: Any, tokenizer: Any, held_out: list[Row]) -> tuple[Evaluation, Evaluation, Evaluation | None]:
    """The candidate's, the base's and the live version's evaluation on the same examples."""
    task = spec.adapter.spec
    candidate = evaluate(model, tokenizer, task, held_out)
    with model.disable_adapter():
        base = evaluate(model, tokenizer, task, held_out)
    if spec.live is None:
        return candidate, base, None
    from peft import PeftModel

    folder = spec.scratch / spec.run_id / "live"
    asyncio.run(_fetch(spec.live, Objects(spec.objects), folder))
    live = PeftModel.from_pretrained(load_model(spec.base), str(folder))
    return candidate, base, evaluate(live, tokenizer, task, held_out)


async def _fetch(version: AdapterVersion, objects: Objects, folder: Path) -> None:
    """Writes the files of `version` to `folder`. Raises IntegrityError when one is not what the registry says."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in version.files:
        check = ClaimCheck(uri=f"{version.artifact_uri}/{file.path}", sha256=file.sha256, size_bytes=file.size_bytes)
        (folder / file.path).write_bytes(await objects.claim(check))


async def _publish(spec: RunSpec, folder: Path, rows: list[Row], candidate: Evaluation, base: Evaluation, live: Evaluation | None, verdict: Verdict) -> Outcome:
    """Writes the artifact to the store: adapter, its configuration with a versioned base name, the manifest."""
    sha256 = base_sha256(Path(spec.base)) if Path(spec.base).exists() else spec.base
    recipe = spec.adapter.recipe.model_dump()
    manifest = Manifest(spec.name, spec.base_epoch, sha256, spec.ranges, tuple(row.example_id for row in rows), recipe)
    (folder / MANIFEST).write_text(manifest.to_json())
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(canonical_json({**config, "base_model_name_or_path": f"base@{spec.base_epoch}-{sha256[:8]}"}))
    objects = Objects(spec.objects)
    files, weights = [], ""
    for name in PUBLISHED:
        data = (folder / name).read_bytes()
        sha = hashlib.sha256(data).hexdigest()
        weights = weights or sha
        await objects.put(f"adapters/{spec.name}/{spec.version}-{spec.run_id}/{name}", data)
        files.append(ArtifactFile(path=name, sha256=sha, size_bytes=len(data)))
    metrics = {candidate.metric: candidate.score, f"base_{candidate.metric}": base.score, "valid_share": candidate.valid_share, "held_out": float(candidate.count)}
    return Outcome(
        engine_name=f"{spec.name}@{spec.version}-{weights[:8]}", artifact_uri=f"{objects.url}/adapters/{spec.name}/{spec.version}-{spec.run_id}", files=tuple(files),
        recipe_hash=digest(canonical_json(recipe)), manifest_sha256=files[-1].sha256, metrics=metrics | ({f"live_{live.metric}": live.score} if live else {}), verdict=verdict,
    )  # fmt: skip


def child(spec: RunSpec, connection: Any) -> None:
    """The process: sends Progress, then one Outcome, or the text of the error."""
    try:
        connection.send(execute(spec, connection.send))
    except Exception as error:
        connection.send(f"{type(error).__name__}: {error}")
        raise
    finally:
        connection.close()


__all__ = ["Outcome", "Progress", "RunSpec", "child", "execute"]
