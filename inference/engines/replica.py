"""One replica of a remote engine: vLLM with our settings behind vLLM's own HTTP server, on the base that the registry says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import structlog
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send

from inference.engines.remote import Failing, Gone, Server
from inference.engines.vllm import VllmEngine
from inference.http_server import WorkerServer
from runtime.artifacts import base_name, fetch
from runtime.errors import InvalidInput
from runtime.follower import Follower
from runtime.kafka import Record
from runtime.objects import Objects
from runtime.project import Project
from runtime.signing import Keys
from schemas.codec import Codec
from schemas.events import AdapterEvent, AdapterEventKind, AdapterVersion, BaseEpoch
from schemas.topics import ADAPTERS, BASE

log = structlog.get_logger()
POLL_SECONDS = 0.5
QUIET_SECONDS, SWITCH_SECONDS = 3.0, 60.0
"""Whose turn it is to change over waits until nobody has asked it for so long, since clients go to those with the new base then; and at most so long."""
DRAIN_SECONDS = 30
"""How long answers under way may take when a replica stops."""
AWAY_SECONDS = 120.0
"""A replica that is away for longer is not waited for."""


class Replica:
    """Serves the base of the current epoch at `host`:`port`. At a new epoch those `ahead` of it change over first, one after the other, so that some always answer."""

    def __init__(
        self, project: Project, broker: str, objects: Objects, folder: Path, host: str, port: int, ahead: Sequence[Server], prefix: str, codec: Codec, keys: Keys, key: str | None,
    ) -> None:  # fmt: skip
        self._project, self._objects, self._folder, self._host, self._port, self._ahead, self._codec, self._keys, self._key = project, objects, folder, host, port, ahead, codec, keys, key
        self._follower = Follower(broker, [prefix + ADAPTERS.name])
        self._bases: dict[int, AdapterVersion] = {}
        self._epoch: BaseEpoch | None = None
        self._changed, self._known = asyncio.Event(), asyncio.Event()

    async def run(self, stop: asyncio.Event) -> None:
        """Follows the registry and serves until `stop` is set."""
        await self._follower.start()
        work = [asyncio.create_task(one) for one in (self._follow(), self._serve(), stop.wait())]
        try:
            await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = [task for task in work if task.done()]
            for task in work:
                task.cancel()
            await asyncio.wait(work)
            await self._follower.stop()
        for task in ended:
            task.result()

    async def _follow(self) -> None:
        while True:
            await self._follower.deliver(self._apply)
            if self._epoch and await self._follower.caught_up():
                self._known.set()

    def _apply(self, record: Record) -> None:
        event = self._codec.decode(AdapterEvent, record.value)
        if event.adapter == BASE and event.version is not None and event.kind is AdapterEventKind.VERSION:
            self._bases[event.version.version] = event.version
        if event.epoch is not None:
            self._epoch = event.epoch
            self._changed.set()

    async def _serve(self) -> None:
        while True:
            await self._known.wait()
            epoch = self._epoch
            assert epoch is not None
            version = self._bases[epoch.epoch] if epoch.epoch else None
            folder = str(await fetch(version, self._objects, self._folder, self._keys)) if version else self._project.base_folder
            turn = asyncio.create_task(self._turn(epoch))
            try:
                await serve(folder, _name(epoch), self._host, self._port, self._key, turn, gently=bool(self._ahead))
            finally:
                turn.cancel()
                await asyncio.wait([turn])

    async def _turn(self, serving: BaseEpoch) -> None:
        """Returns when there is another epoch than `serving`, and those ahead serve it."""
        while self._epoch == serving:
            self._changed.clear()
            await self._changed.wait()
        for server in self._ahead:
            seen = time.monotonic()
            while time.monotonic() - seen < AWAY_SECONDS:
                with contextlib.suppress(Gone, Failing, InvalidInput, ValueError, LookupError):
                    base, _ = await server.look()
                    seen = time.monotonic()
                    if self._epoch and base == _name(self._epoch):
                        break
                await asyncio.sleep(POLL_SECONDS)


def _name(epoch: BaseEpoch) -> str:
    return base_name(epoch.epoch, epoch.base_sha256)


async def serve(folder: str, name: str, host: str, port: int, key: str | None, until: asyncio.Task[None], *, gently: bool) -> None:
    """Serves the base in `folder` as `name` until `until` is done, `gently` then until nobody asks any more, or until the engine dies; who asks must hold `key` where there is one.

    Raises:
        OSError: the address can't be had.
    """
    os.environ["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
    engine = VllmEngine(folder, keep_stats=True, cores_left=0)
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((host, port))  # had before an engine is started for it, and closed to those who ask until it answers
        await engine.start()
        try:
            app = await _app(engine, folder, name, key)
            asked = _Asked(app)
            server = app.state.server = WorkerServer(uvicorn.Config(asked, log_level="warning", timeout_graceful_shutdown=DRAIN_SECONDS))
            serving = asyncio.create_task(server.serve([taken]))
            log.info("replica.serving", base=name, port=port)
            while engine.healthy and not serving.done() and not until.done():
                await asyncio.wait((serving, until), timeout=POLL_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if engine.healthy and gently:
                await asked.no_more()
            log.warning("replica.stopping", base=name, engine="well" if engine.healthy else "dead")
            server.should_exit = True
            await serving
        finally:
            await engine.stop()


class _Asked:
    """Notes when answers are asked for."""

    def __init__(self, app: ASGIApp) -> None:
        self._app, self._last = app, time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "POST":
            self._last = time.monotonic()
        await self._app(scope, receive, send)

    async def no_more(self) -> None:
        """Returns when nobody has asked for a while, or after `SWITCH_SECONDS`."""
        began = time.monotonic()
        while time.monotonic() - max(began, self._last) < QUIET_SECONDS and time.monotonic() - began < SWITCH_SECONDS:  # noqa: ASYNC110 - silence sets no event
            await asyncio.sleep(POLL_SECONDS)


async def _app(engine: VllmEngine, folder: str, name: str, key: str | None) -> Any:
    from vllm.entrypoints.openai.api_server import build_app, init_app_state
    from vllm.entrypoints.openai.cli_args import make_arg_parser
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    said = ["--model", folder, "--served-model-name", name, "--enable-lora", *(["--api-key", key] if key else [])]
    arguments = make_arg_parser(FlexibleArgumentParser()).parse_args(said)
    tasks = await engine.client.get_supported_tasks()
    app = build_app(arguments, tasks, engine.client.model_config)
    await init_app_state(engine.client, app.state, arguments, tasks)
    return app
