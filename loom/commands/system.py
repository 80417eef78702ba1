"""`loom up`, `demo`, `worker`: processes."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from loom.commands.common import AsJson, Broker, Data, Database, Project, Registry, settings_of


def up(project: Project = None, data: Data = None, broker: Broker = None, database: Database = None, registry: Registry = None) -> None:
    """Start the whole system on this machine.

    Ctrl-C drains and stops it; the next start goes on where it stopped.

    Example: loom up --project examples/pebblewire/loom.toml
    """
    from loom.stack import Stack

    asyncio.run(_up(Stack(settings_of(project=project, data=data, broker=broker, database=database, registry=registry))))


async def _up(stack: Any) -> None:
    import signal

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    try:
        settings = await stack.start()
        typer.echo(f"broker {settings.broker}, HTTP http://{settings.http_host}:{settings.http_port}, data {settings.data}: Ctrl-C stops")
        await stop.wait()
        typer.echo("draining")
    finally:
        await stack.stop()


def demo(
    docs: Annotated[list[Path] | None, typer.Option("--docs", help="Documents to feed beside the example's.")] = None,
    project: Annotated[Path, typer.Option("--project", help="The project file.")] = Path("examples/pebblewire/loom.toml"),
    data: Annotated[Path, typer.Option("--data", help="The folder of all state; emptied first.")] = Path("var/demo"),
    as_json: AsJson = False,
) -> None:
    """Start everything, feed documents, train, ask, stop.

    Prints what came in, what was made of it, each adapter beside its base, and the results.

    Example: loom demo --docs ../manuals
    """
    import shutil

    from rich.console import Console

    from loom.demo import Demo
    from loom.embedded.kafka import free_port
    from loom.stack import lock_folder

    if data.exists():
        lock_folder(data).close()
        shutil.rmtree(data, ignore_errors=True)
    settings = settings_of(project=project, data=data, broker_port=free_port(), http_port=free_port(), log_level="warning")
    console = Console(stderr=as_json)
    documents = (project.parent / "docs", *(docs or []))
    report = asyncio.run(Demo(settings, documents, project.parent / "frames.toml", data / "report.json", console).run())
    if as_json:
        typer.echo(json.dumps(report))


def worker(name: Annotated[str, typer.Argument(help="chunk, synth, format, coordinator, trainer, inference, engine or projection.")]) -> None:
    """Run one process of one stage until SIGTERM.

    Example: LOOM_BROKER=kafka:9092 LOOM_DATABASE=postgresql://… loom worker chunk
    """
    from loom.processes import WORKERS, run_worker
    from runtime.errors import SettingsError

    if name not in WORKERS:
        raise SettingsError(f"no worker {name!r}: one of {', '.join(WORKERS)}")
    sys.exit(asyncio.run(run_worker(name, settings_of())))
