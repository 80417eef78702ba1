"""What the commands share: their common options, the settings of a call, rows of the projection.

Nothing heavy is imported before a command needs it.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

Project = Annotated[Path | None, typer.Option("--project", help="The project file.")]
Data = Annotated[Path | None, typer.Option("--data", help="The folder of the embedded services' state.")]
Broker = Annotated[str | None, typer.Option("--broker", help="host:port of a Kafka broker, instead of the embedded one.")]
Database = Annotated[str | None, typer.Option("--database", help="PostgreSQL URL, instead of the embedded one.")]
Registry = Annotated[str | None, typer.Option("--registry", help="URL of a Confluent-compatible schema registry, instead of the committed catalogue.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def settings_of(**overrides: Any) -> Any:
    """Settings of this call; a running stack's broker and database where none are named."""
    from runtime.logs import configure_logs
    from runtime.settings import load_settings

    settings = load_settings(**overrides)
    configure_logs(settings.log_level)
    return settings


def connected_settings(**overrides: Any) -> Any:
    """Settings with broker and database: given ones, else those of the stack that runs on the data folder."""
    from pydantic import SecretStr

    from runtime.errors import SettingsError

    settings = settings_of(**overrides)
    path = settings.connection_file
    if path.exists():
        known = json.loads(path.read_text())
        defaults = {"broker": settings.broker or known["broker"], "database": settings.database or SecretStr(known["database"]), "http_port": known["http_port"], "registry": settings.registry or known.get("registry")}
        defaults["project"] = settings.project if settings.project.exists() else Path(known["project"])
        settings = settings.model_copy(update=defaults)
    if settings.broker is None:
        raise SettingsError(f"nothing runs on {settings.data}: start it with `loom up`, or name --broker and --database")
    return settings


def client_of(settings: Any) -> Any:
    """A client of the system that `settings` name."""
    from loom.client import Client
    from loom.processes import codec_of
    from runtime.objects import Objects
    from runtime.project import load_project

    project = load_project(settings.project)
    return Client(project, settings.broker, Objects(settings.objects_url), settings.prefix, codec_of(settings, project))


def fleet_of(settings: Any) -> Any:
    """Registry and runs of the system that `settings` name, as they stand."""

    async def run() -> Any:
        async with client_of(settings) as client:
            return await client.fleet()

    return asyncio.run(run())


def print_rows(sql: str, columns: list[str], as_json: bool, project: Path | None, data: Path | None, database: str | None, cells: Callable[[dict[str, Any]], Sequence[Any]] | None = None) -> None:
    """Prints rows of the projection; for people, `cells` of each, where they are not its values."""
    from rich.console import Console
    from rich.table import Table

    from loom.processes import database_of
    from runtime.database import connect

    async def run() -> list[dict[str, Any]]:
        pool = await connect(database_of(connected_settings(project=project, data=data, database=database)), size=1)
        try:
            return [dict(row) for row in await pool.fetch(sql)]
        finally:
            await pool.close()

    rows = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps(rows, default=str))
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*map(_cell, cells(row) if cells else [row[name] for name in columns]))
    Console().print(table)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
