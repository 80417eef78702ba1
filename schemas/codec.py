"""Bytes on the wire: Confluent framing (a zero byte, a 4-byte big-endian schema id), then Avro."""

from __future__ import annotations

import io
import struct
import typing
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache
from types import NoneType, UnionType
from typing import Any

import fastavro
from fastavro.types import Schema

from schemas import contracts, events
from schemas.events import Event

E = typing.TypeVar("E", bound=Event)
MAGIC = 0
HEADER = struct.Struct(">bI")

RECORDS: Mapping[type, str] = {
    events.Document: "document", events.Label: "label", events.Revision: "revision", events.Chunk: "chunk", events.Example: "example",
    events.DatasetRecord: "dataset_record", events.TrainingRun: "training_run", events.AdapterEvent: "adapter_event",
    events.AdapterCommand: "adapter_command", events.Request: "request", events.Result: "result",
    events.RequestCompleted: "request_completed", events.Feedback: "feedback", events.DeadLetter: "dead_letter",
}  # fmt: skip


class InvalidRecord(ValueError):
    """The bytes are no record of the expected contract."""


class Codec:
    """Encodes events with the ids of a registry or of the committed catalogue, and reads both.

    `ids` maps a record's name to the schema id to write; `lookup` finds the writer's contract by id and raises
    LookupError for an unknown one. Both default to the committed catalogue.
    """

    def __init__(
        self,
        ids: Callable[[str], int] = contracts.current_id,
        lookup: Callable[[int], contracts.Contract] = lambda schema_id: contracts.landed()[schema_id][1],
    ) -> None:
        self._ids = cache(ids)
        self._lookup = cache(lambda schema_id: fastavro.parse_schema(lookup(schema_id)))

    def encode(self, event: Event) -> bytes:
        """`event` as framed Avro.

        Raises:
            InvalidRecord: a field's value is not of its contract's type.
        """
        record = RECORDS[type(event)]
        out = io.BytesIO()
        out.write(HEADER.pack(MAGIC, self._ids(record)))
        try:
            fastavro.schemaless_writer(out, _reader(record), to_plain(event), strict=True)
        except (ValueError, TypeError) as error:
            raise InvalidRecord(f"not a valid {record}: {error}") from error
        return out.getvalue()

    def decode(self, kind: type[E], data: bytes | None) -> E:
        """The event in `data`.

        Raises:
            InvalidRecord: no framing, an unknown schema id, another record's contract, or cut or surplus bytes.
        """
        record = RECORDS[kind]
        if data is None or len(data) < HEADER.size or data[0] != MAGIC:
            raise InvalidRecord(f"no {record}: the bytes lack Confluent framing (a zero byte and a schema id)")
        (_, schema_id) = HEADER.unpack_from(data)
        try:
            writer = self._lookup(schema_id)
        except LookupError:
            raise InvalidRecord(f"no {record}: schema id {schema_id} is unknown") from None
        body = io.BytesIO(data[HEADER.size :])
        try:
            plain = fastavro.schemaless_reader(body, writer, _reader(record))
        except (ValueError, EOFError, LookupError, struct.error, TypeError, OverflowError, MemoryError, fastavro.read.SchemaResolutionError) as error:
            raise InvalidRecord(f"no {record}: {type(error).__name__}: {error}") from error
        if body.read(1):
            raise InvalidRecord(f"no {record}: surplus bytes behind it")
        return typing.cast(E, from_plain(kind, plain))


@cache
def _reader(record: str) -> Schema:
    return fastavro.parse_schema(contracts.contract(record))


def to_plain(value: Any) -> Any:
    """`value` as the dicts, lists and primitives that fastavro writes."""
    if is_dataclass(value):
        return {f.name: to_plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: Any, plain: Any) -> Any:
    """The typed value of `kind` that `to_plain` made `plain` of."""
    origin = typing.get_origin(kind)
    if origin in (UnionType, typing.Union):
        if plain is None:
            return None
        (kind,) = (option for option in typing.get_args(kind) if option is not NoneType)
        return from_plain(kind, plain)
    if origin is tuple:
        return tuple(from_plain(typing.get_args(kind)[0], item) for item in plain)
    if is_dataclass(kind):
        return typing.cast(type, kind)(**{name: from_plain(hint, plain[name]) for name, hint in _hints(typing.cast(type, kind)).items()})
    if isinstance(kind, type) and issubclass(kind, StrEnum):
        return kind(plain)
    return plain


@cache
def _hints(kind: type) -> dict[str, Any]:
    return typing.get_type_hints(kind)
