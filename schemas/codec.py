"""Bytes on the wire: Confluent framing (a zero byte, a 4-byte big-endian schema id), then Avro."""

from __future__ import annotations

import io
import struct
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import StrEnum
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any

import fastavro
from fastavro.types import Schema

from schemas import contracts, events
from schemas.events import Event

E = typing.TypeVar("E", bound=Event)
MAGIC = 0
AS_IT_IS = frozenset({str, bytes, int, float, bool, NoneType})
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
        self._resolved = cache(self._resolve)

    def _resolve(self, schema_id: int, record: str) -> tuple[Schema, Schema | None]:
        """The writer's schema, and the reader's where it is another. Raises LookupError for an unknown id."""
        writer, reader = self._lookup(schema_id), _reader(record)
        return writer, None if writer == reader else reader

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
            writer, reader = self._resolved(schema_id, record)
        except LookupError:
            raise InvalidRecord(f"no {record}: schema id {schema_id} is unknown") from None
        body = io.BytesIO(data[HEADER.size :])
        try:
            plain = fastavro.schemaless_reader(body, writer, reader)
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
    kind = type(value)
    if kind in AS_IT_IS:
        return value
    if is_dataclass(kind):
        return {name: to_plain(getattr(value, name)) for name in _names(kind)}
    if isinstance(value, StrEnum):
        return value.value
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value


def from_plain(kind: Any, plain: Any) -> Any:
    """The typed value of `kind` that `to_plain` made `plain` of; dicts in `plain` are used up."""
    typed = _typed(kind)
    return typed(plain) if typed else plain


@cache
def _typed(kind: Any) -> Callable[[Any], Any] | None:
    """What makes values of `kind`, looked up once; None where plain values are such."""
    origin = typing.get_origin(kind)
    if origin in (UnionType, typing.Union):
        (option,) = (option for option in typing.get_args(kind) if option is not NoneType)
        make = _typed(option)
        return partial(_optional, make) if make else None
    if origin is tuple:
        make = _typed(typing.get_args(kind)[0])
        return partial(_tuple, make) if make else tuple
    if is_dataclass(kind):
        return _maker(typing.cast(type, kind))
    return kind if isinstance(kind, type) and issubclass(kind, StrEnum) else None


def _optional(make: Callable[[Any], Any], plain: Any) -> Any:
    return None if plain is None else make(plain)


def _tuple(make: Callable[[Any], Any], plain: Sequence[Any]) -> tuple[Any, ...]:
    return tuple(map(make, plain))


def _maker(kind: type) -> Callable[[dict[str, Any]], Any]:
    typed = {name: make for name, hint in typing.get_type_hints(kind).items() if (make := _typed(hint))}

    def make_one(plain: dict[str, Any]) -> Any:
        for name, make in typed.items():
            plain[name] = make(plain[name])
        return kind(**plain)

    return make_one


@cache
def _names(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind))
