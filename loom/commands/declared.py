"""`loom init`, `contract`, `topics apply`: what is declared."""

from __future__ import annotations

import asyncio
import json
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer

from loom.commands.common import AsJson, Broker, Data, Project, Registry, connected_settings, settings_of


def contract(project: Project = None, out: Annotated[Path | None, typer.Option("--out", help="Write to this file.")] = None) -> None:
    """Print the topics and records as AsyncAPI 3.

    In JSON, which is YAML too.

    Example: loom contract --out asyncapi.json
    """
    from runtime.project import load_project
    from schemas.asyncapi import asyncapi

    settings = settings_of(project=project)
    text = json.dumps(asyncapi(load_project(settings.project).topics.values(), settings.prefix), indent=2)
    if out is None:
        typer.echo(text)
    else:
        out.write_text(text + "\n")


def init(path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("loom.toml"), as_json: AsJson = False) -> None:
    """Write a commented project file to start from.

    Example: loom init
    """
    from runtime.errors import SettingsError

    if path.exists():
        raise SettingsError(f"{path} is there already: name another path")
    template = resources.files("loom").joinpath("template.toml").read_text()
    try:
        path.write_text(template)
    except OSError as error:
        raise SettingsError(f"{path} can't be written: {error.strerror}") from error
    typer.echo(json.dumps({"path": str(path)}) if as_json else f"{path} written: declare your adapters in it, then `loom up`")


def apply(project: Project = None, data: Data = None, broker: Broker = None, registry: Registry = None, as_json: AsJson = False) -> None:
    """Create the topics that are missing, and register their contracts where a registry is named.

    Example: loom topics apply --broker kafka:9092
    """
    from loom.stack import register_contracts
    from runtime.kafka import apply_topics
    from runtime.project import load_project

    settings = connected_settings(project=project, data=data, broker=broker, registry=registry)
    declared = load_project(settings.project)
    made = asyncio.run(apply_topics(settings.broker, declared.topics.values(), settings.prefix))
    subjects = register_contracts(settings, declared)
    if as_json:
        typer.echo(json.dumps({"created": list(made), "registered": list(subjects)}))
        return
    if subjects:
        typer.echo(f"{len(subjects)} contracts registered")
    typer.echo(f"{len(made)} topics created" + (": " + ", ".join(made) if made else ""))
