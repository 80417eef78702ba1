"""The workers' wiring: each function runs one worker until `stop` is set. The only place that knows the real parts."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Any

import asyncpg
import structlog

from runtime.collector import collect_less
from runtime.database import connect, migrate
from runtime.errors import Fenced, SettingsError
from runtime.in_flight import CONCURRENT
from runtime.machine import yield_processor
from runtime.metrics import serve_metrics
from runtime.objects import Objects
from runtime.places import read_at
from runtime.project import Gpu, Project, TeacherLimits, load_project
from runtime.sealing import PostgresKeys
from runtime.settings import Settings
from runtime.stage import Stage
from schemas.codec import Codec
from schemas.registry import open_codec
from schemas.topics import CHUNKS, DOCUMENTS, EXAMPLES, FEEDBACK, LABELS, REVISIONS

if TYPE_CHECKING:
    from inference.engines import Engine
    from inference.engines.remote import Server
    from runtime.pulse import PulseWriter
    from streams.teacher.teachers import Teacher
    from trainers.conditions import LlmJudge

log = structlog.get_logger()
EXIT_START_OVER = 70
DRAIN_SECONDS = 10
"""What is asked over HTTP may go on so long after SIGTERM; what comes over Kafka is read again."""
KEEP_ALIVE_SECONDS = 75
"""Longer than clients keep an idle connection (httpx: 5 s, urllib3 and browsers: up to 60), so that none is closed as it is used."""
PULSES = "serving"
"""Where in LOOM_DATA serving says how hard it works."""
Worker = Callable[[Settings, asyncio.Event], Awaitable[None]]
STREAM_TOPICS = {"chunk": (DOCUMENTS, REVISIONS), "synth": (CHUNKS,), "format": (LABELS, EXAMPLES, FEEDBACK)}
"""What the stream workers read."""


def broker_of(settings: Settings) -> str:
    """The broker that a worker connects to. Raises SettingsError when none is named."""
    if settings.broker is None:
        raise SettingsError("no broker: set LOOM_BROKER=host:port, or start everything with `loom up`")
    return settings.broker


def database_of(settings: Settings) -> str:
    """The database that a worker connects to. Raises SettingsError when none is named."""
    if settings.database is None:
        raise SettingsError("no database: set LOOM_DATABASE=postgresql://…, or start everything with `loom up`")
    return settings.database.get_secret_value()


def codec_of(settings: Settings, project: Project) -> Codec:
    """The codec with the registry's ids, or with the committed catalogue's where no registry is named."""
    return open_codec(settings.registry, project.topics.values(), settings.prefix)


async def pool_of(settings: Settings) -> asyncpg.Pool:
    """A pool on the worker's database, its tables brought up to date first."""
    await asyncio.to_thread(migrate, database_of(settings))
    return await connect(database_of(settings))


async def _streams(name: str, settings: Settings, stop: asyncio.Event) -> None:
    from streams.chunk import ChunkStage
    from streams.context import Context, held_out
    from streams.feedback import FeedbackStage
    from streams.format import FormatStage, LabelStage
    from streams.intake import Intake
    from streams.pool import CutterPool
    from streams.rebuild import rebuild
    from streams.shell import StreamShell
    from streams.synth import SynthStage

    project = load_project(settings.project)
    pool = await pool_of(settings)
    codec = codec_of(settings, project)
    context = Context(project, codec, PostgresKeys(pool), Objects(settings.objects_url), pool, held_out(project), settings.prefix)
    stages: list[Stage]
    cutters = CutterPool()
    if name == "chunk":
        stages = [Intake(context), ChunkStage(context, cutters)]
    elif name == "synth":
        stages = [SynthStage(context, _teacher(settings, project.teacher, pool))]
    else:
        stages = [LabelStage(context), FormatStage(context), FeedbackStage(context, partial(read_at, broker_of(settings)))]

    def start_over(error: BaseException) -> None:
        log.error("worker.start_over", error=f"{type(error).__name__}: {error}")
        os._exit(EXIT_START_OVER)

    shell = StreamShell(
        f"{settings.prefix}{name}", broker_of(settings), stages, folder=settings.data / "faust" / name, on_fatal=start_over,
        prefix=settings.prefix, session_timeout_seconds=settings.session_timeout_seconds, codec=codec, concurrent=project.teacher.concurrency if name == "synth" else CONCURRENT,
    )  # fmt: skip
    await rebuild(context, broker_of(settings))
    await shell.start()
    collect_less()
    await stop.wait()
    await shell.stop()
    await asyncio.to_thread(cutters.close)
    await pool.close()


def _teacher(settings: Settings, limits: TeacherLimits, pool: asyncpg.Pool) -> Teacher:
    """The teacher that the settings name, within its limits; the offline one needs none."""
    from streams.teacher.by_distilabel import offline_teacher, remote_teacher
    from streams.teacher.ledger import Metered

    if not settings.teacher_url:
        return offline_teacher()
    return Metered(remote_teacher(settings.teacher_url, settings.teacher_model, settings.teacher_secret, limits.timeout_seconds), limits, pool)


async def chunk(settings: Settings, stop: asyncio.Event) -> None:
    """intake and chunk."""
    await _streams("chunk", settings, stop)


async def synth(settings: Settings, stop: asyncio.Event) -> None:
    """synth."""
    await _streams("synth", settings, stop)


async def format_(settings: Settings, stop: asyncio.Event) -> None:
    """labels and format."""
    await _streams("format", settings, stop)


async def coordinator(settings: Settings, stop: asyncio.Event) -> None:
    """The owner of runs and aliases."""
    from trainers.coordinator import Coordinator

    project = load_project(settings.project)
    feeders = {settings.prefix + worker: [settings.prefix + topic.name for topic in topics] for worker, topics in STREAM_TOPICS.items()}
    await Coordinator(project, broker_of(settings), settings.prefix, codec_of(settings, project), feeders).run(stop)


async def trainer(settings: Settings, stop: asyncio.Event) -> None:
    """Carries runs out."""
    from trainers.conditions import Conditions, check_backend, check_sharded, missing_trackers
    from trainers.worker import Trainer, runs_at_once

    project = load_project(settings.project)
    codec, scratch, trackers = codec_of(settings, project), settings.data / "runs", settings.trackers
    if missing := missing_trackers(trackers):
        raise SettingsError(f"LOOM_REPORT_TO: {', '.join(missing)} is not installed, or not known to transformers: install its package where the trainer runs")
    if project.gpu.share != "separate":
        yield_processor()
    conditions = Conditions(processes=settings.run_processes, sharded=settings.run_sharded, report_to=trackers, backend=settings.run_backend, axolotl=settings.axolotl, judge=judge_of(settings, project))
    check_backend(conditions)
    check_sharded(conditions)
    await Trainer(project, broker_of(settings), database_of(settings), settings.objects_url, scratch, settings.prefix, codec, settings.registry, runs_at_once(settings.runs_at_once), conditions, settings.keys, settings.trainer_idle_seconds, settings.data / PULSES).run(stop)


def judge_of(settings: Settings, project: Project) -> LlmJudge | None:
    """Who scores answers of new versions: the model at the teacher's endpoint, where one is set.

    Raises:
        SettingsError: an adapter's gate wants a judge, and none is set.
    """
    from trainers.conditions import LlmJudge

    if settings.teacher_url:
        return LlmJudge(settings.teacher_url, settings.teacher_model, settings.teacher_secret, project.teacher)
    if wanting := sorted(name for name, adapter in project.adapters.items() if adapter.gate.judged):
        raise SettingsError(f"the gate of {', '.join(wanting)} has `judged`: set LOOM_TEACHER_URL, LOOM_TEACHER_MODEL and LOOM_TEACHER_KEY, or leave it out")
    return None


async def projection(settings: Settings, stop: asyncio.Event) -> None:
    """Topics into PostgreSQL."""
    from loom.projection import Projection

    project = load_project(settings.project)
    pool = await pool_of(settings)
    try:
        await Projection(project, broker_of(settings), pool, settings.prefix, codec_of(settings, project)).run(stop)
    finally:
        await pool.close()


async def inference(settings: Settings, stop: asyncio.Event) -> None:
    """Engine, router, residency, the Kafka shell and HTTP."""
    import uvicorn

    from inference.api import build_api
    from inference.front import Recorder
    from inference.http_server import WorkerServer
    from inference.residency import Residency
    from inference.routing.router import LiveRouter
    from inference.service import Service
    from inference.shadows import Shadows
    from inference.worker import AnswerStage, RequestShell
    from runtime.encoder import minilm
    from runtime.event_writer import Entry, EventWriter
    from runtime.ids import digest
    from runtime.kafka import producer
    from runtime.tasks.prompt import load_tokenizer
    from runtime.tasks.shortlist import Shortlist
    from schemas.events import AdapterEvent, AdapterEventKind, AdapterVersion
    from schemas.topics import ADAPTERS

    project, broker = load_project(settings.project), broker_of(settings)
    codec = codec_of(settings, project)
    tokenizer = await asyncio.to_thread(load_tokenizer, project.base_folder)
    writer = EventWriter(broker, f"http.{settings.http_host}.{settings.http_port}", "inference", codec, settings.prefix)
    await writer.start()

    async def refuse(version: AdapterVersion, reason: str) -> None:
        event = AdapterEvent(adapter=version.adapter, kind=AdapterEventKind.REFUSAL, version=version, alias=None, epoch=None, reason=reason)
        await writer.write([Entry(ADAPTERS.name, version.adapter, event, digest("refusal", version.engine_name))])

    residency = Residency(project, broker, partial(_engine, settings, project.gpu, tokenizer), Objects(settings.objects_url), tokenizer, settings.data / "adapters", refuse, settings.prefix, codec, settings.keys)
    following = asyncio.create_task(residency.run(stop))
    router = LiveRouter(settings.project, project)
    await router.load()
    pulse = _pulse(settings) if project.gpu.share != "separate" else None
    shadows = Shadows(partial(producer, broker), codec, settings.prefix)
    service = Service(project, router, residency, tokenizer, Shortlist((await asyncio.to_thread(minilm)).encode), shadows, pulse)
    shell = RequestShell(f"{settings.prefix}inference", broker, AnswerStage(service, codec, settings.prefix), codec, settings.prefix, settings.session_timeout_seconds, project.inference.delivery)
    server = WorkerServer(uvicorn.Config(build_api(project, service, residency, Recorder(writer), keys=settings.api_keys), host=settings.http_host, port=settings.http_port, log_level="warning", timeout_keep_alive=KEEP_ALIVE_SECONDS, timeout_graceful_shutdown=DRAIN_SECONDS))
    if settings.engine_urls:  # an engine of its own does so as it starts
        collect_less()
    tasks = [following, asyncio.create_task(router.run(stop)), asyncio.create_task(server.serve()), asyncio.create_task(shell.run(stop)), *([asyncio.create_task(pulse.run(stop))] if pulse else [])]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)  # none ends by itself but by an error
    finally:
        stop.set()
        server.should_exit = True
        ended = await asyncio.gather(*tasks, return_exceptions=True)
        await shadows.stop()
        await writer.stop()
    for error in ended:
        if isinstance(error, BaseException) and not isinstance(error, asyncio.CancelledError):  # a client that stops without its broker cancels itself
            raise error


def _engine(settings: Settings, gpu: Gpu, tokenizer: Any, folder: str, base: str) -> Engine:
    """What answers: vLLM in this process' charge, or the servers that are named."""
    from inference.engines.remote import RemoteEngine
    from inference.engines.vllm import VllmEngine

    if not settings.engine_urls:
        return VllmEngine(folder, gpu_memory=None if gpu.share == "separate" else gpu.serving)
    return RemoteEngine([engine_server(settings, url, base, tokenizer) for url in settings.engine_urls], base, settings.engines_window)


def engine_server(settings: Settings, url: str, base: str, tokenizer: Any) -> Server:
    """One of the servers that are named, which serves `base`."""
    from inference.engines.lorax import LoraxServer
    from inference.engines.vllm_server import VllmServer

    if settings.engines_api == "lorax":
        return LoraxServer(url, tokenizer, settings.engines_folder, settings.engines_secret)
    return VllmServer(url, base, settings.engines_folder, settings.engines_secret)


def _pulse(settings: Settings) -> PulseWriter:
    """Where this inference worker says how hard it works."""
    from runtime.pulse import PulseWriter

    return PulseWriter(settings.data / PULSES / f"{settings.http_host}.{settings.http_port}.json")


async def engine(settings: Settings, stop: asyncio.Event) -> None:
    """One of the servers that answer for inference workers."""
    from inference.engines.replica import Replica
    from inference.engines.vllm_server import VllmServer

    project, urls = load_project(settings.project), settings.engine_urls
    own = settings.engine_url or f"http://{settings.http_host}:{settings.engine_port}"
    ahead = [VllmServer(url, "", key=settings.engines_secret) for url in urls[: urls.index(own) if own in urls else 0]]
    codec, objects, folder = codec_of(settings, project), Objects(settings.objects_url), settings.data / "bases"
    try:
        await Replica(project, broker_of(settings), objects, folder, settings.http_host, settings.engine_port, ahead, settings.prefix, codec, settings.keys, settings.engines_secret).run(stop)
    finally:
        for server in ahead:
            await server.close()


WORKERS: dict[str, Worker] = {
    "chunk": chunk, "synth": synth, "format": format_, "coordinator": coordinator, "trainer": trainer, "projection": projection, "inference": inference, "engine": engine,
}  # fmt: skip


ON_ONE_MACHINE = tuple(name for name in WORKERS if name != "engine")
"""Those of a whole system, whose inference worker has its engine in its own charge."""


async def run_worker(name: str, settings: Settings) -> int:
    """Runs worker `name` until SIGTERM or SIGINT, or until its supervisor has gone; its exit code."""
    import signal

    if settings.metrics_port is not None:
        serve_metrics(settings.metrics_port, settings.http_host)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    watching = asyncio.create_task(_stop_without(settings.supervisor, stop)) if settings.supervisor else None
    try:
        await WORKERS[name](settings, stop)
    except Fenced as error:
        log.error("worker.fenced", worker=name, error=str(error))
        return EXIT_START_OVER
    finally:
        if watching:
            watching.cancel()
    return 0


async def _stop_without(supervisor: int, stop: asyncio.Event) -> None:
    """Sets `stop` when the process `supervisor` is our parent no more: it was killed before it could stop us."""
    while os.getppid() == supervisor:  # noqa: ASYNC110 - a parent that goes sets no event
        await asyncio.sleep(1)
    log.error("worker.orphaned", supervisor=supervisor)
    stop.set()
