"""Fitted routes as a folder: `router.json` (routes, threshold, report, the sha256 of what lies beside it), `head.safetensors`, and, where the encoder was tuned, its
graph and tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.numpy import load, save

from inference.routing.decision import route_name, route_of
from inference.routing.fit import Fitted, Report
from inference.routing.scorers import Calibration, Cascade, Head, Utterances
from runtime.encoder import GRAPH, TOKENIZER, Encoder, quick_minilm
from runtime.errors import SettingsError

FORMAT = 2
DESCRIPTION, TENSORS = "router.json", "head.safetensors"


def save_routes(fitted: Fitted, folder: Path, encoder: Path | None = None) -> None:
    """Writes `folder` anew and puts it in the place of the old one as a whole; `encoder` is the folder of a tuned one."""
    part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    tensors = {"vectors": fitted.utterances.vectors} | ({} if fitted.head is None else {name: getattr(fitted.head, name) for name in Head.__slots__})
    (part / TENSORS).write_bytes(save(tensors))
    if encoder:
        for name in (GRAPH, TOKENIZER):
            shutil.copy(encoder / name, part / name)
    described = {
        "format": FORMAT,
        "files": {file.name: _sha256(file) for file in sorted(part.iterdir())},
        "exclusive": fitted.exclusive, "sure": fitted.sure, "threshold": fitted.threshold, "split": fitted.split,
        "calibration": asdict(fitted.calibration), "cascade": fitted.cascade and asdict(fitted.cascade), "report": fitted.report.as_json(),
        "routes": [{"route": route_name(route), "utterances": texts} for route, texts in zip(fitted.utterances.routes, fitted.utterances.texts, strict=True)],
    }  # fmt: skip
    (part / DESCRIPTION).write_text(json.dumps(described, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    if folder.exists():
        folder.rename(old)
    part.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load_routes(folder: Path, threads: int = 1) -> tuple[Fitted, Encoder]:
    """The routes in `folder` and their encoder.

    Raises:
        SettingsError: it is not there, or not whole.
    """
    try:
        described: dict[str, Any] = json.loads((folder / DESCRIPTION).read_text(encoding="utf-8"))
        if described["format"] != FORMAT:
            raise SettingsError(f"{folder}: fitted routes of format {described['format']}, {FORMAT} is read: fit them anew with loom routes fit")
        for name, sha256 in described["files"].items():
            if name not in (TENSORS, GRAPH, TOKENIZER) or _sha256(folder / name) != sha256:
                raise SettingsError(f"{folder}: {name} is not what {DESCRIPTION} says: fit the routes anew with loom routes fit")
        tensors = load((folder / TENSORS).read_bytes())
        routes = described["routes"]
        utterances = Utterances(tuple(route_of(r["route"]) for r in routes), tuple(tuple(r["utterances"]) for r in routes), tensors["vectors"])
        head = Head(**{name: tensors[name] for name in Head.__slots__}) if "weights" in tensors else None
        cascade = described["cascade"] and Cascade(_calibration(described["cascade"]["calibration"]), described["cascade"]["bar"])
        calibration, report = _calibration(described["calibration"]), Report(**described["report"])
        fitted = Fitted(utterances, head, calibration, described["exclusive"], described["sure"], described["threshold"], described["split"], report, cascade)
    except FileNotFoundError as error:
        raise SettingsError(f"{folder}: no fitted routes, {Path(error.filename).name} is missing: loom routes fit writes them") from None
    except (KeyError, TypeError, ValueError, SafetensorError) as error:
        raise SettingsError(f"{folder}: these fitted routes can't be read ({type(error).__name__}: {error}): fit them anew with loom routes fit") from error
    encoder = Encoder(folder / GRAPH, folder / TOKENIZER, batch=1, threads=threads) if GRAPH in described["files"] else quick_minilm(threads)
    return fitted, encoder


def _calibration(described: dict[str, Any]) -> Calibration:
    return Calibration(tuple(described["weights"]), described["bias"])


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
