"""`loom forget`: a document's or a user's texts are gone for good, and what learned from them is made anew."""

from __future__ import annotations

import asyncio
import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from loom.commands.common import AsJson, Broker, Data, Database, Project, client_of, connected_settings


def forget(
    doc: Annotated[str | None, typer.Argument(metavar="[DOC]", help="A document's id.")] = None,
    user: Annotated[str | None, typer.Option("--user", metavar="ID", help="A user instead: the `user_id` of requests, or a conversation without one.")] = None,
    wait: Annotated[float, typer.Option("--wait", metavar="SECONDS", help="Wait so long until nothing serves that learned from it.")] = 0.0,
    text: Annotated[Path | None, typer.Option("--text", help="A file of text to search for, once it can't be read here any more.")] = None,
    project: Project = None,
    data: Data = None,
    broker: Broker = None,
    database: Database = None,
    as_json: AsJson = False,
) -> None:
    """Forget a document or a user for good.

    The key of its texts is destroyed, so that they can't be read in any topic, copy or dataset; what else was kept of them is deleted. Every version and
    base epoch that learned from them is tainted: the base is trained again from the last one that did not, the adapters on it, and the files of
    the tainted ones are deleted once others serve. Then all that is kept is searched for its sentences.

    Give the command again to see how far it is. Exit code 1 while something that serves learned from it, or a sentence is found that does not delete itself.

    Example: loom forget docs/manual.pdf --wait 3600
    Example: loom forget --user 4711
    """
    from loom.forget import Forgetting, Subject
    from loom.processes import codec_of, database_of
    from runtime.database import connect
    from runtime.errors import SettingsError

    if (doc is None) is (user is None):
        raise SettingsError("say what to forget: a document's id, or --user ID")
    settings = connected_settings(project=project, data=data, broker=broker, database=database)
    subject = Subject.user(user) if user is not None else Subject.document(doc or "")

    async def run() -> Any:
        pool = await connect(database_of(settings), size=1)
        try:
            async with client_of(settings) as client:
                return await Forgetting(settings, client, pool, codec_of(settings, client.project)).forget(subject, [text.read_text(errors="replace")] if text else (), wait)
        finally:
            await pool.close()

    done = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps(asdict(done) | {"is_done": done.is_done}, default=str))
    else:
        _say(done)
    raise typer.Exit(0 if done.is_done else 1)


def _say(done: Any) -> None:
    typer.echo(f"the key of {done.owner} is destroyed; {done.deleted_objects} objects and {done.deleted_rows} rows deleted")
    typer.echo(f"{done.examples} examples were made of it; tainted: {', '.join(done.tainted) or 'no version learned from it'}")
    if done.cancelled_runs:
        typer.echo(f"{len(done.cancelled_runs)} runs had read it and were cancelled")
    if done.still_serving:
        typer.echo(f"{', '.join(done.still_serving)} still serve, until others are trained: see `loom runs`, and give the command again")
    elif done.learned_live:
        typer.echo(f"{', '.join(done.learned_live)} serve and learned from it: give the command again")
    else:
        typer.echo("no manifest of what serves names an example of it")
    if not done.searched:
        typer.echo("nothing was searched: its texts can't be read any more; give one by --text")
        return
    typer.echo(f"{done.searched} of its sentences were searched in topics, objects, tables and files" + ("" if done.findings else ": none is there"))
    for found in done.findings:
        typer.echo(f"  {found.place}: in {found.records} records, " + (f"which are deleted by {found.until:%Y-%m-%d %H:%M} UTC" if found.until else "which stay"))
