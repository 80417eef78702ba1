"""Versions of the registry as runs that can be made again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from loom.processes import database_of
from runtime.artifacts import MANIFEST
from runtime.errors import SettingsError
from runtime.objects import Objects
from runtime.project import Adapter, Cpt, Project
from runtime.settings import Settings
from schemas.events import AdapterVersion, ClaimCheck
from schemas.topics import BASE
from trainers.conditions import Conditions
from trainers.fleet import Fleet
from trainers.run import RunSpec


async def manifest_of(version: AdapterVersion, objects: Objects) -> Mapping[str, Any]:
    """What the version was made of. Raises IntegrityError where its manifest is not what the registry says."""
    (file,) = (file for file in version.files if file.path == MANIFEST)
    manifest: Mapping[str, Any] = json.loads(await objects.claim(ClaimCheck(uri=f"{version.artifact_uri}/{file.path}", sha256=file.sha256, size_bytes=file.size_bytes)))
    return manifest


def version_in(fleet: Fleet, name: str, number: int | None) -> AdapterVersion:
    """The version of an adapter, or of the base. Raises SettingsError where the registry has none."""
    state = fleet.states.get(name)
    found = state.versions.get(number) if state and number is not None else None
    if found is None:
        raise SettingsError(f"no version {name}@{number}: `loom adapters` lists them")
    return found


def clean_version_in(fleet: Fleet, name: str, number: int | None, what_for: str) -> AdapterVersion:
    """The version, for what a tainted one can't be used for. Raises SettingsError where it is tainted, or not there."""
    version = version_in(fleet, name, number)
    if why := fleet.states[name].tainted.get(version.version):
        raise SettingsError(f"{name}@{number} can't be {what_for}: it {why}")
    return version


@dataclass(frozen=True, slots=True)
class PastRun:
    """The run that made a version, with what it was declared and compared with then, and the version's manifest."""

    version: AdapterVersion
    spec: RunSpec
    manifest: Mapping[str, Any]


async def run_of(fleet: Fleet, name: str, number: int | None, settings: Settings) -> PastRun:
    """The run that made a version.

    Raises:
        SettingsError: the registry does not have the version.
    """
    version = clean_version_in(fleet, name, number, "made again")
    state = fleet.states[name]
    objects = Objects(settings.objects_url)
    manifest = await manifest_of(version, objects)
    known = {other.engine_name: other for other in state.versions.values()}
    live, best, first = (known.get(manifest[which] or "") for which in ("live", "best", "first"))
    recipe = (Cpt if name == BASE else Adapter).model_validate(manifest["declaration"])
    spec = RunSpec(
        version.run_id, name, version.version, version.base_epoch, _base(fleet, version), recipe, state.runs[version.run_id].ranges, live, settings.broker or "", database_of(settings),
        settings.objects_url, settings.data / "runs", settings.registry, best=best, first=first, amends=manifest["parent"] is not None,
        conditions=Conditions(threads=manifest.get("threads")),  # manifests of before do not say
    )  # fmt: skip
    return PastRun(version, spec, manifest)


def _base(fleet: Fleet, version: AdapterVersion) -> str | AdapterVersion:
    project: Project = fleet.project
    return version_in(fleet, BASE, version.base_epoch) if version.base_epoch else project.base_folder
