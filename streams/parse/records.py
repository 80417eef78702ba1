"""Tickets and chats as CSV, JSON or JSON lines: a record is a section with its fields, a conversation speaks in turn."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from runtime.errors import InvalidInput
from streams.parse.blocks import Block, BlockKind
from streams.parse.decoding import decode

TITLES = ("title", "subject", "summary", "name", "question", "instruction")
IDS = ("id", "key", "ticket_id", "conversation_id", "number")
SPEAKERS = ("role", "author", "speaker", "from", "sender", "user", "name")
SAID = ("text", "content", "message", "body", "utterance", "value")
SHORT_CHARACTERS = 80
SNIFFED_CHARACTERS = 64 << 10


def table(data: bytes) -> list[Block]:
    """Rows of a CSV file with a heading line. Raises InvalidInput for one without."""
    text = decode(data)
    try:
        dialect: Any = csv.Sniffer().sniff(text[:SNIFFED_CHARACTERS], delimiters=",;\t|")
    except csv.Error:
        dialect = csv.excel
    rows = csv.DictReader(io.StringIO(text, newline=""), dialect=dialect)
    if not rows.fieldnames or not all(name and name.strip() for name in rows.fieldnames):
        raise InvalidInput("the CSV lacks a first line with the names of all columns")
    try:
        return _sections({name: value for name, value in row.items() if isinstance(name, str)} for row in rows)
    except csv.Error as error:
        raise InvalidInput(f"the CSV can't be read: {error}") from error


def objects(data: bytes) -> list[Block]:
    """Records of a JSON document: a list of objects, an object, or an object that holds such a list. Raises InvalidInput for no JSON."""
    try:
        found = json.loads(decode(data))
    except ValueError as error:
        raise InvalidInput(f"not JSON: {error}") from error
    return _sections(_records(found))


def lines(data: bytes) -> list[Block]:
    """Records of JSON lines. Raises InvalidInput, with the number, for a line that is no JSON."""
    found = []
    for number, line in enumerate(decode(data).splitlines(), 1):
        if line.strip():
            try:
                found.append(json.loads(line))
            except ValueError as error:
                raise InvalidInput(f"line {number} is not JSON: {error}") from error
    return _sections(record for one in found for record in _records(one))


def _records(found: Any) -> list[Mapping[str, Any]]:
    if isinstance(found, list):
        return [one if isinstance(one, dict) else {"text": one} for one in found]
    if isinstance(found, dict):
        held = [value for value in found.values() if isinstance(value, list) and value and all(isinstance(one, dict) for one in value)]
        conversation = any(_turns(value) for value in held)
        return list(held[0]) if len(held) == 1 and not conversation and len(found) <= 3 else [found]
    return [{"text": found}]


def _sections(records: Iterable[Mapping[str, Any]]) -> list[Block]:
    return [block for number, record in enumerate(records, 1) for block in _section(record, number)]


def _section(record: Mapping[str, Any], number: int) -> Iterator[Block]:
    fields = {str(name): value for name, value in record.items() if value not in (None, "", [], {})}
    by_name = {name.strip().casefold(): name for name in fields}
    named = next((by_name[name] for name in (*TITLES, *IDS) if name in by_name and isinstance(fields[by_name[name]], str | int)), None)
    yield Block(BlockKind.HEADING, " ".join(str(fields[named]).split()) if named else f"Record {number}", 1)
    short: list[str] = []
    long: list[str] = []
    for name, value in fields.items():
        if name == named:
            continue
        if isinstance(value, list) and (turns := _turns(value)):
            long += turns
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        (short if len(text) <= SHORT_CHARACTERS and "\n" not in text else long).append(f"{name}: {text.strip()}")
    if short:
        yield Block(BlockKind.TEXT, "\n".join(short))
    yield from (Block(BlockKind.TEXT, text) for text in long)


def _turns(value: Sequence[Any]) -> list[str]:
    """`speaker: text` for each message of a conversation; empty where it is none."""
    turns = []
    for message in value:
        if isinstance(message, list | tuple) and len(message) == 2 and all(isinstance(part, str) for part in message):
            turns.append(f"{message[0]}: {message[1].strip()}")
            continue
        if not isinstance(message, dict):
            return []
        said = next((message[name] for name in SAID if isinstance(message.get(name), str)), None)
        if said is None:
            return []
        speaker = next((message[name] for name in SPEAKERS if isinstance(message.get(name), str) and message[name] != said), None)
        turns.append(f"{speaker}: {said.strip()}" if speaker else said.strip())
    return turns
