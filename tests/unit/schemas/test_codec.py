"""Events on the wire, and the contracts that they follow."""

from __future__ import annotations

import dataclasses
import struct
import typing

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas import contracts
from schemas.codec import RECORDS, Codec, InvalidRecord
from schemas.events import Document, Request

CODEC = Codec()
INT32 = st.integers(-(2**31), 2**31 - 1)
LIMITS = {"int": INT32, "long": st.integers(-(2**63), 2**63 - 1)}


def values(schema: typing.Any, named: dict[str, st.SearchStrategy[typing.Any]]) -> st.SearchStrategy[typing.Any]:
    """Python values of an Avro type, in the events' own form."""
    if isinstance(schema, list):
        return st.one_of(*(values(option, named) for option in schema))
    kind = schema if isinstance(schema, str) else schema["type"]
    if isinstance(schema, str) and schema in named:
        return named[schema]
    simple: dict[str, st.SearchStrategy[typing.Any]] = {
        "null": st.none(), "boolean": st.booleans(), "string": st.text(max_size=20), "bytes": st.binary(max_size=20),
        "double": st.floats(allow_nan=False), **LIMITS,
    }  # fmt: skip
    if kind in simple:
        return simple[kind]
    if kind == "array":
        return st.lists(values(schema["items"], named), max_size=3).map(tuple)
    if kind == "map":
        return st.dictionaries(st.text(max_size=5), values(schema["values"], named), max_size=3)
    event_type = next(t for t in _types() if t.__name__ == schema["name"])
    if kind == "enum":
        named[schema["name"]] = st.sampled_from(list(event_type))
    else:
        named[schema["name"]] = st.builds(event_type, **{f["name"]: values(f["type"], named) for f in schema["fields"]})
    return named[schema["name"]]


def _types() -> list[typing.Any]:
    from schemas import events
    from schemas.events import common, dead_letters, documents, examples, serving, training

    return [t for module in (events, common, dead_letters, documents, examples, serving, training) for t in vars(module).values() if isinstance(t, type)]


@pytest.mark.parametrize("event_type", RECORDS, ids=lambda t: t.__name__)
def test_decode_undoes_encode(event_type: type) -> None:
    @settings(max_examples=40, deadline=None)
    @given(values(contracts.contract(RECORDS[event_type]), {}))
    def check(event: typing.Any) -> None:
        assert CODEC.decode(event_type, CODEC.encode(event)) == event

    check()


@pytest.mark.parametrize("event_type", RECORDS, ids=lambda t: t.__name__)
def test_types_follow_the_contract(event_type: type) -> None:
    fields = contracts.contract(RECORDS[event_type])["fields"]
    assert [f.name for f in dataclasses.fields(event_type)] == [f["name"] for f in fields]
    assert all(field.get("doc") for field in fields)


@pytest.mark.parametrize("record", contracts.records())
def test_contract_has_landed_and_is_fully_transitive(record: str) -> None:
    assert contracts.current_id(record) >= contracts.FIRST_ID
    assert contracts.transitive_incompatibilities(record) == []


def test_an_incompatible_change_is_seen() -> None:
    contract = contracts.contract("request")
    without_text = {**contract, "fields": [f for f in contract["fields"] if f["name"] != "text"]}
    assert contracts.incompatibilities(contract, without_text)


REQUEST = Request(request_id="r", conversation_id="c", text="hello", tools=None, adapter_id=None, deadline_ms=None, served=None)


@pytest.mark.parametrize(
    "data",
    [None, b"", b"\0\0", b"hello world", CODEC.encode(REQUEST)[:-1], CODEC.encode(REQUEST) + b"x", struct.pack(">bI", 0, 7) + b"rest", b"\1" + CODEC.encode(REQUEST)[1:]],
    ids=["null", "empty", "short", "text", "cut", "surplus", "unknown id", "other magic"],
)
def test_foreign_bytes_are_invalid_records(data: bytes | None) -> None:
    with pytest.raises(InvalidRecord):
        CODEC.decode(Request, data)


@given(st.binary(max_size=60))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    try:
        CODEC.decode(Document, CODEC.encode(REQUEST)[:5] + data)
    except InvalidRecord:
        pass


def test_a_wrong_type_is_not_written() -> None:
    with pytest.raises(InvalidRecord, match="request"):
        CODEC.encode(dataclasses.replace(REQUEST, text=7))  # type: ignore[arg-type]
