"""A version on a hub. There is none in reach of tests: one that answers as the Hub's HTTP API does stands in its place, and huggingface_hub talks to it."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from fastapi import FastAPI, Request, Response

from loom.embedded.kafka import free_port
from loom.hub import push
from runtime.errors import IntegrityError, SettingsError
from runtime.objects import Objects
from schemas.events import AdapterVersion
from tests.support.versions import stored_version

FILES = {"adapter_model.safetensors": b"weights", "adapter_config.json": b"{}", "README.md": b"# tool@7", "manifest.json": b"{}"}


@dataclass
class Hub:
    """What was committed, made and tagged; `status` is how it answers to the making of a repository."""

    address: str
    status: int = 200
    made: list[dict[str, Any]] = field(default_factory=list)
    committed: dict[str, bytes] = field(default_factory=dict)
    words: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)

    async def create(self, request: Request) -> Response:
        self.made.append(await request.json())
        return Response(json.dumps({"url": f"{self.address}/acme/tool"}), status_code=self.status, media_type="application/json")

    async def check_card(self) -> dict[str, Any]:
        return {"errors": [], "warnings": []}

    async def sort(self, request: Request) -> dict[str, Any]:
        return {"files": [{"path": file["path"], "uploadMode": "regular", "shouldIgnore": False} for file in (await request.json())["files"]]}

    async def commit(self, request: Request) -> dict[str, Any]:
        for line in (await request.body()).splitlines():
            entry = json.loads(line)
            if entry["key"] == "header":
                self.words.append(entry["value"]["summary"])
            else:
                self.committed[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
        return {"commitUrl": f"{self.address}/acme/tool/commit/abc", "commitOid": "abc", "pullRequestUrl": None}

    async def tag(self, request: Request) -> Response:
        self.tags.append((await request.json())["tag"])
        return Response(status_code=201)


@pytest.fixture
def hub() -> Iterator[Hub]:
    port = free_port()
    known = Hub(f"http://127.0.0.1:{port}")
    app = FastAPI()
    routes: dict[str, Callable[..., Any]] = {
        "/api/repos/create": known.create, "/api/validate-yaml": known.check_card, "/api/models/acme/tool/preupload/main": known.sort, "/api/models/acme/tool/commit/main": known.commit,
        "/api/models/acme/tool/tag/abc": known.tag,
    }  # fmt: skip
    for path, answer in routes.items():
        app.add_api_route(path, answer, methods=["POST"])
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive()
    yield known
    server.should_exit = True
    thread.join()


@pytest.fixture
def objects(tmp_path: Path) -> Objects:
    return Objects((tmp_path / "store").as_uri())


@pytest.fixture
def version(tmp_path: Path, objects: Objects) -> AdapterVersion:
    return stored_version(tmp_path, objects, 7, FILES, verdict="good")


@pytest.fixture(autouse=True)
def _token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)  # as tests are otherwise


def test_all_files_go_up_as_they_are_in_one_commit_with_a_tag(hub: Hub, objects: Objects, version: AdapterVersion) -> None:
    address = asyncio.run(push(version, objects, "acme/tool", private=True, endpoint=hub.address))
    assert address == f"{hub.address}/acme/tool/commit/abc"
    assert hub.committed == FILES
    assert hub.words == ["tool@7-1a2b3c4d: good"]
    assert hub.tags == ["tool-v7-1a2b3c4d"]
    assert hub.made == [{"name": "tool", "organization": "acme", "visibility": "private"}]


def test_what_is_not_the_registry_s_does_not_go_up(hub: Hub, objects: Objects, version: AdapterVersion) -> None:
    changed = replace(version, files=tuple(replace(file, sha256="0" * 64) for file in version.files))
    with pytest.raises(IntegrityError):
        asyncio.run(push(changed, objects, "acme/tool", private=True, endpoint=hub.address))
    assert not hub.made


def test_a_hub_that_refuses_is_named_with_the_way_out(hub: Hub, objects: Objects, version: AdapterVersion) -> None:
    hub.status = 403
    with pytest.raises(SettingsError, match=rf"acme/tool on {hub.address}: .*403.*HF_TOKEN"):
        asyncio.run(push(version, objects, "acme/tool", private=True, endpoint=hub.address))
    with pytest.raises(SettingsError, match=r"OWNER/NAME"):
        asyncio.run(push(version, objects, "acme/tool/more", private=True, endpoint=hub.address))


def test_a_hub_that_is_not_there_is_named(objects: Objects, version: AdapterVersion) -> None:
    with pytest.raises(SettingsError, match=r"acme/tool on http://127\.0\.0\.1"):
        asyncio.run(push(version, objects, "acme/tool", private=True, endpoint=f"http://127.0.0.1:{free_port()}"))
