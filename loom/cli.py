"""The command `loom`. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, add_completion=False, rich_markup_mode="rich", help="loraloom: documents in, a fleet of fresh LoRA adapters out, answers back.")
topics_app = typer.Typer(no_args_is_help=True, help="The topic catalogue.")
dlq_app = typer.Typer(no_args_is_help=True, help="Records that could not be processed.")
bench_app = typer.Typer(no_args_is_help=True, help="Benchmarks against a running system.")
app.add_typer(bench_app, name="bench")
app.add_typer(topics_app, name="topics")
app.add_typer(dlq_app, name="dlq")

Project = Annotated[Path | None, typer.Option("--project", help="The project file.")]
Data = Annotated[Path | None, typer.Option("--data", help="The folder of the embedded services' state.")]
Broker = Annotated[str | None, typer.Option("--broker", help="host:port of a Kafka broker, instead of the embedded one.")]
Database = Annotated[str | None, typer.Option("--database", help="PostgreSQL URL, instead of the embedded one.")]
Registry = Annotated[str | None, typer.Option("--registry", help="URL of a Confluent-compatible schema registry, instead of the committed catalogue.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
CONNECTION = "connection.json"


def main() -> None:
    """Entry point: errors of ours are one clear line, and exit code 2."""
    from runtime.errors import LoomError

    try:
        app()
    except LoomError as error:
        typer.echo(f"loom: {error}", err=True)
        sys.exit(2)


def _settings(**overrides: Any) -> Any:
    """Settings of this call; a running stack's broker and database where none are named."""
    from runtime.logs import configure_logs
    from runtime.settings import load_settings

    settings = load_settings(**overrides)
    configure_logs(settings.log_level)
    return settings


def _connected(**overrides: Any) -> Any:
    """Settings with broker and database: given ones, else those of the stack that runs on the data folder."""
    from pydantic import SecretStr

    from runtime.errors import SettingsError

    settings = _settings(**overrides)
    path = settings.data / CONNECTION
    if path.exists():
        known = json.loads(path.read_text())
        defaults = {"broker": settings.broker or known["broker"], "database": settings.database or SecretStr(known["database"]), "http_port": known["http_port"], "registry": settings.registry or known.get("registry")}
        defaults["project"] = settings.project if settings.project.exists() else Path(known["project"])
        settings = settings.model_copy(update=defaults)
    if settings.broker is None:
        raise SettingsError(f"nothing runs on {settings.data}: start it with `loom up`, or name --broker and --database")
    return settings


@app.command()
def up(project: Project = None, data: Data = None, broker: Broker = None, database: Database = None, registry: Registry = None) -> None:
    """Start the whole system on this machine; Ctrl-C drains and stops it.

    Example: loom up --project examples/pebblewire/loom.toml
    """
    from loom.stack import Stack

    asyncio.run(_up(Stack(_settings(project=project, data=data, broker=broker, database=database, registry=registry))))


async def _up(stack: Any) -> None:
    import signal

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    path = stack.settings.data / CONNECTION
    try:
        settings = await stack.start()
        known = {"broker": settings.broker, "registry": settings.registry, "database": settings.database.get_secret_value(), "http_port": settings.http_port, "project": str(settings.project)}
        path.touch(mode=0o600)
        path.write_text(json.dumps(known))
        typer.echo(f"broker {settings.broker}, HTTP http://{settings.http_host}:{settings.http_port}, data {settings.data}: Ctrl-C stops")
        await stop.wait()
        typer.echo("draining")
    finally:
        path.unlink(missing_ok=True)
        await stack.stop()


@app.command()
def demo(
    docs: Annotated[list[Path] | None, typer.Option("--docs", help="Documents to feed beside the example's.")] = None,
    project: Annotated[Path, typer.Option("--project", help="The project file.")] = Path("examples/pebblewire/loom.toml"),
    data: Annotated[Path, typer.Option("--data", help="The folder of all state; emptied first.")] = Path("var/demo"),
    as_json: AsJson = False,
) -> None:
    """Start everything, feed documents, train, ask, print what came of it, and stop.

    Example: loom demo --docs ../manuals
    """
    import shutil

    from rich.console import Console

    from loom.demo import Demo
    from loom.embedded.kafka import free_port

    shutil.rmtree(data, ignore_errors=True)
    settings = _settings(project=project, data=data, broker_port=free_port(), http_port=free_port(), log_level="warning")
    console = Console(stderr=as_json)
    documents = (project.parent / "docs", *(docs or []))
    report = asyncio.run(Demo(settings, documents, project.parent / "frames.toml", data / "report.json", console).run())
    if as_json:
        typer.echo(json.dumps(report))


@app.command()
def worker(name: Annotated[str, typer.Argument(help="chunk, synth, format, coordinator, trainer, inference or projection.")]) -> None:
    """Run one process of one stage until SIGTERM.

    Example: LOOM_BROKER=kafka:9092 LOOM_DATABASE=postgresql://… loom worker chunk
    """
    from loom.processes import WORKERS, run_worker
    from runtime.errors import SettingsError

    if name not in WORKERS:
        raise SettingsError(f"no worker {name!r}: one of {', '.join(WORKERS)}")
    sys.exit(asyncio.run(run_worker(name, _settings())))


def _client(settings: Any) -> Any:
    """A client of the system that `settings` name."""
    from loom.client import Client
    from loom.processes import codec_of
    from runtime.objects import Objects
    from runtime.project import load_project

    project = load_project(settings.project)
    return Client(project, settings.broker, Objects(settings.objects_url), settings.prefix, codec_of(settings, project))


@app.command()
def publish(paths: list[Path], project: Project = None, data: Data = None, broker: Broker = None, source: Annotated[str, typer.Option(help="The upstream's name.")] = "files", as_json: AsJson = False) -> None:
    """Publish files and folders as documents; publishing the same tree twice changes nothing.

    Example: loom publish manuals/ notes.md
    """

    async def run() -> list[str]:
        settings = _connected(project=project, data=data, broker=broker)
        from rich.progress import track

        async with _client(settings) as client:
            published = [doc_id async for doc_id in client.publish(paths, source)]
            return list(track(published, description="published", disable=not sys.stderr.isatty()))

    published = asyncio.run(run())
    typer.echo(json.dumps({"documents": published}) if as_json else f"{len(published)} documents published")


@app.command()
def ask(text: str, adapter: Annotated[str | None, typer.Option("--adapter", help="Skip the router: adapter, adapter@version or adapter@base.")] = None, project: Project = None, data: Data = None, broker: Broker = None, as_json: AsJson = False) -> None:
    """Ask over Kafka and print what the result topics answer.

    Example: loom ask "Check the status of ticket #1234."
    """
    from runtime.errors import Transient

    async def run() -> Any:
        settings = _connected(project=project, data=data, broker=broker)
        async with _client(settings) as client:
            try:
                return await client.ask(text, {"user_id": "current"}, adapter)
            except TimeoutError:
                raise Transient("no answer within 60 s: is the inference worker up? see `loom status`") from None

    answered = asyncio.run(run())
    rows = [{"topic": topic, "adapter": r.engine_name, "status": r.status, "text": r.text, "output": json.loads(r.output) if r.output else None, "error": r.error} for topic, r in answered.results]
    if as_json:
        typer.echo(json.dumps({"status": answered.completed.status, "error": answered.completed.error, "results": rows}))
        return
    typer.echo(f"{answered.completed.status}" + (f": {answered.completed.error}" if answered.completed.error else ""))
    for row in rows:
        typer.echo(f"{row['topic']:20} {row['adapter'] or '-':26} {json.dumps(row['output'])}" + (f"  {row['error']}" if row["error"] else ""))


def _query(sql: str, columns: list[str], as_json: bool, project: Path | None, data: Path | None, database: str | None) -> None:
    """Prints rows of the projection."""
    from rich.console import Console
    from rich.table import Table

    from loom.processes import database_of
    from runtime.database import connect

    async def run() -> list[dict[str, Any]]:
        pool = await connect(database_of(_connected(project=project, data=data, database=database)), size=1)
        try:
            return [dict(row) for row in await pool.fetch(sql)]
        finally:
            await pool.close()

    rows = asyncio.run(run())
    if as_json:
        typer.echo(json.dumps(rows, default=str))
        return
    table = Table(*columns)
    for row in rows:
        table.add_row(*(str(row[name]) if row[name] is not None else "-" for name in columns))
    Console().print(table)


@app.command()
def adapters(as_json: AsJson = False, project: Project = None, data: Data = None, database: Database = None) -> None:
    """List adapter versions, which one is live, and the gate's words.

    Example: loom adapters --json
    """
    sql = (
        "SELECT v.adapter, v.version, v.engine_name, coalesce(a.live_version = v.version, v.adapter = 'base' AND v.version = (SELECT max(epoch) FROM base_epochs), false) AS live, "
        "v.base_epoch, v.sha256, v.metrics, v.verdict FROM adapter_versions v LEFT JOIN adapter_aliases a USING (adapter) ORDER BY 1, 2"
    )
    _query(sql, ["adapter", "version", "engine_name", "live", "base_epoch", "verdict"], as_json, project, data, database)


@app.command()
def runs(as_json: AsJson = False, project: Project = None, data: Data = None, database: Database = None) -> None:
    """List training runs and how they stand.

    Example: loom runs
    """
    _query("SELECT run_id, adapter, version, status, step, steps, loss, reason FROM runs ORDER BY recorded_at", ["run_id", "adapter", "version", "status", "step", "steps", "loss", "reason"], as_json, project, data, database)


@app.command()
def status(as_json: AsJson = False, project: Project = None, data: Data = None, database: Database = None) -> None:
    """Show what is live, what is training, and what was answered.

    Example: loom status
    """
    sql = (
        "SELECT 'live' AS what, adapter AS name, live_version::text AS value FROM adapter_aliases UNION ALL "
        "SELECT 'runs ' || status, adapter, count(*)::text FROM runs GROUP BY status, adapter UNION ALL "
        "SELECT 'requests', status, count(*)::text FROM completions GROUP BY status UNION ALL "
        "SELECT 'dead letters', stage, count(*)::text FROM dead_letters GROUP BY stage ORDER BY 1, 2"
    )
    _query(sql, ["what", "name", "value"], as_json, project, data, database)


@app.command()
def contract(project: Project = None, out: Annotated[Path | None, typer.Option("--out", help="Write to this file.")] = None) -> None:
    """Print the topics and records as AsyncAPI 3 (JSON, which is YAML too).

    Example: loom contract --out asyncapi.json
    """
    from runtime.project import load_project
    from schemas.asyncapi import asyncapi

    settings = _settings(project=project)
    text = json.dumps(asyncapi(load_project(settings.project).topics.values(), settings.prefix), indent=2)
    if out is None:
        typer.echo(text)
    else:
        out.write_text(text + "\n")


@app.command()
def init(path: Annotated[Path, typer.Argument(help="Where to write it.")] = Path("loom.toml")) -> None:
    """Write a commented project file to start from.

    Example: loom init
    """
    from runtime.errors import SettingsError

    if path.exists():
        raise SettingsError(f"{path} is there already: name another path")
    try:
        path.write_text((Path(__file__).parent / "template.toml").read_text())
    except OSError as error:
        raise SettingsError(f"{path} can't be written: {error.strerror}") from error
    typer.echo(f"{path} written: declare your adapters in it, then `loom up`")


@dlq_app.command("show")
def dlq_show(letter_id: str, as_json: AsJson = False, project: Project = None, data: Data = None, broker: Broker = None) -> None:
    """Show one dead letter with its original headers and the start of its bytes.

    Example: loom dlq show 0f3a…
    """
    from runtime.errors import SettingsError

    letter = asyncio.run(_letter(letter_id, _connected(project=project, data=data, broker=broker)))
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
    from runtime.follower import Follower
    from schemas.events import DeadLetter
    from schemas.registry import open_codec
    from schemas.topics import DEAD_LETTERS

    codec = open_codec(settings.registry)
    follower = Follower(settings.broker, {settings.prefix + DEAD_LETTERS.name: DEAD_LETTERS.partitions})
    await follower.start()
    try:
        while not await follower.caught_up():
            for record in await follower.poll():
                letter = codec.decode(DeadLetter, record.value)
                if letter.letter_id == letter_id:
                    return letter
        return None
    finally:
        await follower.stop()


@dlq_app.command("list")
def dlq_list(as_json: AsJson = False, project: Project = None, data: Data = None, database: Database = None) -> None:
    """List dead letters, newest first.

    Example: loom dlq list
    """
    _query("SELECT letter_id, stage, topic, partition, record_offset, error_type, message FROM dead_letters ORDER BY recorded_at DESC", ["letter_id", "stage", "topic", "error_type", "message"], as_json, project, data, database)


@topics_app.command("apply")
def topics_apply(project: Project = None, data: Data = None, broker: Broker = None, registry: Registry = None) -> None:
    """Create the topics that are missing, and register their contracts where a registry is named.

    Example: loom topics apply --broker kafka:9092
    """
    from loom.stack import register_contracts
    from runtime.kafka import apply_topics
    from runtime.project import load_project

    settings = _connected(project=project, data=data, broker=broker, registry=registry)
    declared = load_project(settings.project)
    made = asyncio.run(apply_topics(settings.broker, declared.topics.values(), settings.prefix))
    if subjects := register_contracts(settings, declared):
        typer.echo(f"{len(subjects)} contracts registered")
    typer.echo(f"{len(made)} topics created" + (": " + ", ".join(made) if made else ""))


def _print_scores(scores: Any, as_json: bool) -> None:
    """Scores as a table or as JSON."""
    from rich.console import Console
    from rich.table import Table

    if as_json:
        typer.echo(json.dumps([s.to_json() for s in scores]))
        return
    table = Table("what", "mode", "score", "95 % interval", "p", "n")
    for s in scores:
        interval = f"{s.low:.3f} to {s.high:.3f}" if s.low is not None else "-"
        table.add_row(s.what, s.mode, f"{s.value:.3f}", interval, f"{s.p_value:.2g}" if s.p_value is not None else "-", str(s.count))
    Console().print(table)


@bench_app.command("quality")
def bench_quality(
    test: Annotated[Path, typer.Option("--test", help="JSON lines of {text, label}, {text, calls}, {text, tools, calls} or {text, entities}.")],
    train: Annotated[Path | None, typer.Option("--train", help="Rows of the same form, or frames (.toml): what the baselines (constant, TF-IDF) are trained on.")] = None,
    classifier: Annotated[str, typer.Option("--classifier", help="Adapter that the labels are for.")] = "classifier",
    tool: Annotated[str, typer.Option("--tool", help="Adapter that the calls are for.")] = "tool",
    entities: Annotated[str, typer.Option("--entities", help="Adapter that the entities are for.")] = "ner",
    data: Data = None,
    as_json: AsJson = False,
) -> None:
    """Ask a running system every text of a test, by router and adapter alone and together, and score the answers.

    Example: loom bench quality --test tests/phrasings/requests.jsonl --train examples/pebblewire/frames.toml
    """
    from loom.bench.quality import Names, quality
    from loom.bench.scores import load_rows
    from runtime.project import load_project

    settings = _connected(data=data)
    declared = load_project(settings.project).adapters
    labels, types = (declared[name].labels if name in declared else () for name in (classifier, entities))
    rows, known = load_rows(test), load_rows(train) if train else []
    url = f"http://{settings.http_host}:{settings.http_port}"
    _print_scores(asyncio.run(quality(rows, known, url, Names(classifier, tool, entities, labels, types))), as_json)


@bench_app.command("router")
def bench_router(
    test: Annotated[Path, typer.Option("--test", help="JSON lines of {text, intents}; no intent is out of scope.")],
    train: Annotated[Path | None, typer.Option("--train", help="Rows of the same form that become the routes, instead of the project's.")] = None,
    threshold: Annotated[float, typer.Option("--threshold", help="Cosine below which a route of --train is not chosen.")] = 0.5,
    project: Project = None,
    as_json: AsJson = False,
) -> None:
    """Score the router alone, without a running system: the intents are adapters' names, or those of --train.

    Example: loom bench router --test requests.jsonl --train utterances.jsonl
    """
    from inference.encoder import MiniLM
    from inference.router import SemanticRouter
    from loom.bench.router import route_scores, routes_from
    from loom.bench.scores import load_rows
    from loom.processes import cache_folder
    from runtime.errors import SettingsError
    from runtime.project import load_project

    routes = routes_from(load_rows(train), threshold) if train else load_project(_settings(project=project).project).adapters
    rows = load_rows(test)
    if not any("intents" in row or "intent" in row for row in rows):
        raise SettingsError(f"{test} has no row with intents")
    _print_scores(asyncio.run(route_scores(SemanticRouter(routes, MiniLM(cache_folder())), rows)), as_json)


@app.command()
def doctor(project: Project = None, data: Data = None, as_json: AsJson = False) -> None:
    """Check this machine, the project file and the packages; says what to do about each fault.

    Example: loom doctor
    """
    from loom.doctor import checks

    results = checks(_settings(project=project, data=data))
    if as_json:
        typer.echo(json.dumps([{"check": c.name, "ok": c.ok, "detail": c.detail} for c in results]))
    else:
        for c in results:
            typer.echo(f"{'ok  ' if c.ok else 'FAIL'} {c.name}: {c.detail}")
    sys.exit(0 if all(c.ok for c in results) else 1)

