"""`loom dlq`: records that could not be processed."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import typer

from loom.commands.common import AsJson, Broker, Data, Database, Project, connected_settings, print_rows


def list_(as_json: AsJson = False, project: Project = None, data: Data = None, database: Database = None) -> None:
    """List dead letters, newest first.

    Example: loom dlq list
    """
    print_rows("SELECT letter_id, stage, topic, partition, record_offset, error_type, message FROM dead_letters ORDER BY recorded_at DESC", ["letter_id", "stage", "topic", "error_type", "message"], as_json, project, data, database)


def show(letter_id: str, as_json: AsJson = False, project: Project = None, data: Data = None, broker: Broker = None) -> None:
    """Show one dead letter with its original headers and the start of its bytes.

    Example: loom dlq show 0f3a…
    """
    from runtime.errors import SettingsError

    letter = asyncio.run(_letter(letter_id, connected_settings(project=project, data=data, broker=broker)))
    if letter is None:
        raise SettingsError(f"no dead letter {letter_id}: `loom dlq list` shows them")
    row = {
        "letter_id": letter.letter_id, "stage": letter.stage, "origin": f"{letter.topic}/{letter.partition}/{letter.offset}", "error": f"{letter.error_type}: {letter.message}",
        "headers": {h.name: (h.value or b"").decode(errors="replace") for h in letter.headers}, "key": (letter.key or b"").decode(errors="replace"), "value": repr((letter.value or b"")[:400]),
    }  # fmt: skip
    if as_json:
        typer.echo(json.dumps(row))
    else:
        for name, value in row.items():
            typer.echo(f"{name:10} {value}")


async def _letter(letter_id: str, settings: Any) -> Any:
    """The dead letter with this id, from the topic."""
    from runtime.follower import read_whole
    from runtime.kafka import Record, partitions_of
    from schemas.events import DeadLetter
    from schemas.registry import open_codec
    from schemas.topics import DEAD_LETTERS

    codec = open_codec(settings.registry)
    letters: dict[str, DeadLetter] = {}

    def note(record: Record) -> None:
        letter = codec.decode(DeadLetter, record.value)
        if letter.letter_id == letter_id:
            letters[letter_id] = letter

    await read_whole(settings.broker, await partitions_of(settings.broker, [settings.prefix + DEAD_LETTERS.name]), note)
    return letters.get(letter_id)
