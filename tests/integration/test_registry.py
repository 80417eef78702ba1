"""A real schema registry (Apicurio): contracts are registered, its ids are written and read, an incompatible one is refused."""

from __future__ import annotations

import asyncio
import struct
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from loom.embedded.kafka import EmbeddedKafka
from runtime.kafka import Record
from runtime.project import load_project
from runtime.stage import run_stage
from schemas import contracts
from schemas.codec import Codec, InvalidRecord
from schemas.events import Label, Request
from schemas.registry import Registry, RegistryUnavailable, open_codec
from tests.support.apicurio import registry
from tests.support.live import EXAMPLE

TOPICS = list(load_project(EXAMPLE).topics.values())
REQUEST = Request(request_id="r", conversation_id="c", text="hello")


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registry(tmp_path_factory.mktemp("registry") / "registry.log") as found:
        yield found


def id_of(framed: bytes) -> int:
    return int(struct.unpack_from(">bI", framed)[1])


def test_registered_ids_are_written_and_both_kinds_are_read(url: str) -> None:
    prefix = uuid.uuid4().hex
    client = Registry(url, TOPICS, prefix)
    assert len(client.register()) == len(TOPICS)
    assert client.register() == []
    codec = open_codec(url, TOPICS, prefix)
    framed = codec.encode(REQUEST)
    assert id_of(framed) < contracts.FIRST_ID
    assert httpx.get(f"{url}/schemas/ids/{id_of(framed)}").json()["schema"]
    assert httpx.get(f"{url}/subjects/{prefix}requests-value/versions/latest").json()["id"] == id_of(framed)
    assert codec.decode(Request, framed) == REQUEST
    assert open_codec(url).decode(Request, framed) == REQUEST
    assert codec.decode(Request, Codec().encode(REQUEST)) == REQUEST
    with pytest.raises(InvalidRecord, match="is unknown"):
        Codec().decode(Request, framed)
    with pytest.raises(InvalidRecord, match="schema id 999999 is unknown"):
        codec.decode(Request, struct.pack(">bI", 0, 999_999))


def test_an_incompatible_contract_is_refused(url: str) -> None:
    prefix = uuid.uuid4().hex
    other = '{"type": "record", "name": "Request", "namespace": "loraloom", "fields": [{"name": "request_id", "type": "long"}]}'
    httpx.put(f"{url}/config/{prefix}requests-value", json={"compatibility": "FULL_TRANSITIVE"})
    httpx.post(f"{url}/subjects/{prefix}requests-value/versions", json={"schema": other}).raise_for_status()
    httpx.put(f"{url}/config/{prefix}requests-value", json={"compatibility": "FULL_TRANSITIVE"}).raise_for_status()
    with pytest.raises(ValueError, match=f"refuses the contract of {prefix}requests-value"):
        Registry(url, [t for t in TOPICS if t.name == "requests"], prefix).register()


def test_what_is_not_registered_says_what_to_do(url: str) -> None:
    with pytest.raises(LookupError, match="loom topics apply"):
        open_codec(url, TOPICS, uuid.uuid4().hex).encode(REQUEST)


class Reads:
    """A stage that only decodes."""

    name, topic = "reads", "labels"

    def __init__(self, codec: Codec) -> None:
        self._codec, self.tries = codec, 0

    async def handle(self, record: Record) -> list[object]:
        self.tries += 1
        self._codec.decode(Label, record.value)
        return []


def test_a_registry_that_is_down_makes_no_dead_letters() -> None:
    async def run() -> Reads:
        codec = open_codec("http://127.0.0.1:9", TOPICS)
        with pytest.raises(RegistryUnavailable, match=r"127\.0\.0\.1:9 can't be reached"):
            codec.encode(REQUEST)
        stage = Reads(codec)
        record = Record("labels", 0, 0, b"k", struct.pack(">bI", 0, 7) + b"x")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(run_stage(stage, record, Codec(), ""), 4)  # type: ignore[arg-type]
        return stage

    assert asyncio.run(run()).tries > 1


def test_the_command_registers(url: str, kafka: EmbeddedKafka, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loom", "topics", "apply", "--project", str(EXAMPLE), "--broker", kafka.address, "--registry", url, "--data", str(tmp_path)]
    first = subprocess.run(command, capture_output=True, text=True)
    assert first.returncode == 0, first.stderr
    assert "contracts registered" in first.stdout
    assert "requests-value" in httpx.get(f"{url}/subjects").json()
    command[-3] = "http://127.0.0.1:9"
    failed = subprocess.run(command, capture_output=True, text=True)
    assert (failed.returncode, "can't be reached" in failed.stderr) == (2, True)
