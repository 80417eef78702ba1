"""One training run, a process of its own: snapshot, train, evaluate, gate, artifact. It writes no topic: what it has to
say goes to its worker as messages, so that a run that dies can say nothing half."""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import structlog
from aiokafka.errors import KafkaConnectionError

from runtime.artifacts import CARD, MANIFEST, base_name, fetch, store
from runtime.database import connect
from runtime.ids import canonical_json
from runtime.machine import compute_behind, has_nvidia
from runtime.objects import Objects
from runtime.project import Adapter, Cpt
from runtime.sealing import PostgresKeys
from runtime.signing import NO_KEYS, SIGNATURE, Keys, sign
from runtime.stage import DEPENDENCY_DOWN
from schemas.events import AdapterVersion, ArtifactFile, OffsetRange
from schemas.registry import open_codec
from trainers.artifact import Made
from trainers.base_model import base_sha256, weights_sha256
from trainers.card import card
from trainers.conditions import ALONE, Conditions
from trainers.gate import Verdict
from trainers.memory import is_out_of_memory
from trainers.patience import patient
from trainers.progress import Report
from trainers.snapshot import Manifest, Row, dataset_sha256, example_ids, needed, open_rows, read_ranges, trainable

if TYPE_CHECKING:
    from trainers.fork import Earlier

log = structlog.get_logger()
T = TypeVar("T")
VERSIONS = "versions"
"""The folder of what was fetched, beside those of runs."""


@dataclass(frozen=True, slots=True)
class RunSpec:
    """All that a run needs to know; picklable. `base` is a folder or hub name, or a version of ours; `recipe` says what is made.

    `live`, `best` and `first` are versions that it is compared with (`fork.Earlier`), unless it need only be good enough (`floor_only`).
    Where it `amends`, it goes on from the live version.

    `conditions` say how it is carried out, `keys` what it signs with and whose versions it goes on from.
    """

    run_id: str
    name: str
    version: int
    base_epoch: int
    base: str | AdapterVersion
    recipe: Adapter | Cpt
    ranges: tuple[OffsetRange, ...]
    live: AdapterVersion | None
    broker: str
    database: str
    objects: str
    scratch: Path
    registry: str | None = None
    best: AdapterVersion | None = None
    first: AdapterVersion | None = None
    floor_only: bool = False
    amends: bool = False
    conditions: Conditions = ALONE
    keys: Keys = NO_KEYS


@dataclass(frozen=True, slots=True)
class OutOfMemory:
    """A run ended since memory was short: the error's words."""

    error: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a run ended well: the artifact in the store, its scores, the gate's word."""

    engine_name: str
    artifact_uri: str
    files: tuple[ArtifactFile, ...]
    manifest_sha256: str
    metrics: dict[str, float]
    verdict: Verdict


def execute(spec: RunSpec, report: Report) -> Outcome:
    """Carries the run out; waits as long as broker, database or store fail.

    Raises:
        LoomError: the data or the base are not what they should be.
    """
    folder = spec.scratch / spec.run_id  # what an earlier attempt left is gone on from; the worker deletes it when the run has ended
    folder.mkdir(parents=True, exist_ok=True)
    rows = read_rows(spec)
    base = base_folder(spec)
    os.environ.setdefault("HF_HUB_OFFLINE", "1" if Path(base).exists() else "0")
    made = make(spec, base, rows, folder, report)
    return _patiently(lambda: _publish(spec, made, base, rows, folder))


def read_rows(spec: RunSpec) -> list[Row]:
    """The run's examples in plain; waits as long as broker or database fail."""
    rows = _patiently(lambda: _rows(spec))
    if not spec.amends:
        return rows
    from trainers.fork import amendment

    return amendment(rows, spec.recipe.recipe.seed)


def make(spec: RunSpec, base: str, rows: list[Row], folder: Path, report: Report) -> Made:
    """What the run makes of `rows`, in `folder`; torch has the conditions' threads from then on."""
    if spec.conditions.threads:
        import torch

        torch.set_num_threads(spec.conditions.threads)
    if isinstance(spec.recipe, Cpt):
        from trainers import pretrain

        return pretrain.make(spec.recipe, base, rows, folder, report, spec.conditions)
    from trainers import fork

    return fork.make(spec.recipe, base, rows, earlier_of(spec), folder, report, spec.conditions, floor_only=spec.floor_only, amends=spec.amends)


def base_folder(spec: RunSpec) -> str:
    """The base that the run forks from: a folder, or a hub name."""
    return spec.base if isinstance(spec.base, str) else str(fetched(spec, spec.base))


def earlier_of(spec: RunSpec) -> Earlier:
    """The folders of the versions that the run's is compared with."""
    from trainers.fork import Earlier

    return Earlier(*(fetched(spec, version) if version else None for version in (spec.live, spec.best, spec.first)))


def fetched(spec: RunSpec, version: AdapterVersion) -> Path:
    """The folder of a version's files; waits as long as the store fails."""
    return _patiently(lambda: fetch(version, Objects(spec.objects), spec.scratch / VERSIONS, spec.keys))


@patient(KafkaConnectionError, *DEPENDENCY_DOWN)
def _patiently(work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """What the coroutine of `work` returns."""
    return asyncio.run(work())


async def _rows(spec: RunSpec) -> list[Row]:
    pool = await connect(spec.database, size=1)
    try:
        records = await read_ranges(spec.broker, spec.ranges, open_codec(spec.registry), spec.name)
        if isinstance(spec.recipe, Adapter):
            anchors = example_ids(await fetch(spec.first, Objects(spec.objects), spec.scratch / VERSIONS, spec.keys)) if spec.first else frozenset()
            records = needed(spec.recipe, records, anchors)
        rows = await open_rows(records, PostgresKeys(pool))
        if isinstance(spec.recipe, Cpt):
            return rows
        kept = trainable(spec.recipe.spec, rows)
        if len(kept) < len(rows):
            log.warning("run.left_out", adapter=spec.name, examples=len(rows) - len(kept), reason="the project does not allow them any more")
        return kept
    finally:
        await pool.close()


async def _publish(spec: RunSpec, made: Made, base: str, rows: list[Row], folder: Path) -> Outcome:
    """Writes manifest and artifact to the store; an adapter's configuration names its base by epoch and digest."""
    import torch

    sha256 = base_sha256(Path(base)) if Path(base).exists() else base
    live, best, first = (version.engine_name if version else None for version in (spec.live, spec.best, spec.first))
    manifest = Manifest(
        spec.name, spec.base_epoch, sha256, spec.ranges, tuple(row.example_id for row in rows), dataset_sha256(rows), spec.recipe.model_dump(mode="json"),
        live if spec.amends else None, live, best, first, torch.get_num_threads(),
    )  # fmt: skip
    (folder / MANIFEST).write_text(manifest.to_json())
    (folder / CARD).write_text(card(f"{spec.name}@{spec.version}", spec.run_id, base_name(spec.base_epoch, sha256), manifest, made, rows), encoding="utf-8")
    config = folder / "adapter_config.json"
    if config.exists():
        config.write_text(canonical_json({**json.loads(config.read_text()), "base_model_name_or_path": base_name(spec.base_epoch, sha256)}))
    prefix = f"adapters/{spec.name}/{spec.version}-{spec.run_id}"
    objects = Objects(spec.objects)
    names = (*made.files, CARD, MANIFEST)
    if spec.keys.private:
        sign(folder, names, spec.keys.private)
        names = (*made.files, CARD, SIGNATURE, MANIFEST)
    files = await store(objects, prefix, folder, names)
    weights = weights_sha256({file.path: file.sha256 for file in files}) if isinstance(spec.recipe, Cpt) else files[0].sha256
    return Outcome(f"{spec.name}@{spec.version}-{weights[:8]}", f"{objects.url}/{prefix}", files, files[-1].sha256, made.metrics, made.verdict)


def end_with_parent() -> None:
    """Ends this process with the one that started it: a worker that is killed can't end its run, and the next one begins it anew; a run that waits for a broker would wait for ever."""
    worker = multiprocessing.parent_process()
    if worker is not None:
        worker.join()
        os._exit(1)


def child(spec: RunSpec, connection: Any) -> None:
    """The process: sends moments, then one Outcome, or OutOfMemory, or the text of another error. It ends with its worker."""
    threading.Thread(target=end_with_parent, daemon=True).start()
    if not has_nvidia():
        compute_behind()  # as the engine does
    if spec.conditions.gpu_memory:
        import torch

        if torch.cuda.is_available():
            torch.cuda.set_per_process_memory_fraction(spec.conditions.gpu_memory)
    try:
        connection.send(execute(spec, connection.send))
    except Exception as error:
        words = f"{type(error).__name__}: {error}"
        connection.send(OutOfMemory(words) if is_out_of_memory(error) else words)
        raise
    finally:
        connection.close()
