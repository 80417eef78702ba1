"""`loom demo`: the whole loop on this machine, and what it made, as a table and as `report.json`."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from loom.client import Answered, Client
from loom.frames import Frames
from loom.processes import codec_of
from loom.sources import sources
from loom.stack import Stack
from loom.tally import Tally
from loom.watch import Watch
from runtime.database import connect
from runtime.errors import LoomError
from runtime.objects import Objects
from runtime.project import load_project
from runtime.settings import Settings
from schemas.topics import BASE
from trainers.evaluate import METRIC

MESSAGE = "I'm frustrated with the login error, can you reset my password?"
CONTEXT = {"user_id": "current"}
ANSWERING = ("classifier", "tool")
STALLED_SECONDS = 300.0


class DemoFailed(LoomError):
    """The loop did not close; says where."""


@dataclass(slots=True)
class Demo:
    """One demonstration: which documents, where the report goes."""

    settings: Settings
    documents: tuple[Path, ...]
    frames: Path
    report: Path
    console: Console
    seconds: dict[str, float] = field(default_factory=dict)

    async def run(self) -> dict[str, Any]:
        """Runs it and returns the report.

        Raises:
            DemoFailed: an adapter did not go live, or the message got another answer.
        """
        stack = Stack(self.settings)
        project = load_project(self.settings.project)
        try:
            with self._phase("start", "Starting Kafka, PostgreSQL and seven workers"):
                settings = await stack.start()
            assert settings.broker and settings.database
            pool = await connect(settings.database.get_secret_value(), size=1)
            async with pool, Client(project, settings.broker, Objects(settings.objects_url), settings.prefix, codec_of(settings, project)) as client, Tally(project, settings) as tally:
                with self._phase("publish", "Publishing documents and labels"):
                    documents = [doc_id async for doc_id in client.publish(sources(map(str, self.documents)))]
                    labels = await client.publish_labels(Frames(self.frames).labels())
                self.console.print(f"  {len(documents)} documents, {labels} labelled examples")
                with self._phase("train", "Training as soon as there is enough: first the base on the documents, then adapters from it"):
                    await self._until_live(pool, settings, tally, set(project.adapters))
                with self._phase("ask", "Asking"):
                    answered, base = await self._ask(client)
                await tally.update()
                report = await self._report(pool, documents, tally.to_json(), answered, base)
        finally:
            with self._phase("stop", "Draining and stopping"):
                await stack.stop()
        self.report.parent.mkdir(parents=True, exist_ok=True)
        self.report.write_text(json.dumps(report | {"seconds": self.seconds}, indent=1, ensure_ascii=False) + "\n")
        self._show(report, tally.dead_letters)
        check_message(answered)
        return report

    async def _until_live(self, pool: asyncpg.Pool, settings: Settings, tally: Tally, waiting: set[str]) -> None:
        """Returns when every adapter answers or was judged; says what the streams and the runs do meanwhile."""
        moved, last = time.monotonic(), ""
        with Progress(TextColumn("  {task.description}"), BarColumn(), TextColumn("step {task.completed:.0f} of {task.total:.0f}"), TimeElapsedColumn(), console=self.console, transient=True) as progress:
            watch = Watch(progress)
            while waiting:
                await tally.update()
                runs = await pool.fetch("SELECT run_id, adapter, version, status, step, steps, loss, reason FROM runs ORDER BY recorded_at")
                watch.show(str(tally), runs)
                lost = {run["adapter"]: run["reason"] for run in runs if run["status"] in ("rejected", "failed")}
                if needed := next((name for name in ANSWERING if name in lost), None):
                    raise DemoFailed(f"{needed} did not pass: {lost[needed]}; logs are in {settings.data / 'logs'}")
                waiting -= await self._serving(settings) | lost.keys()
                now = f"{tally} {[tuple(run.values()) for run in runs]} {waiting}"
                moved, last = (time.monotonic(), now) if now != last else (moved, last)
                if time.monotonic() - moved > STALLED_SECONDS:
                    raise DemoFailed(f"nothing moved for {STALLED_SECONDS:.0f} s, and {', '.join(sorted(waiting))} did not go live; logs are in {settings.data / 'logs'}")
                await asyncio.sleep(1)

    async def _serving(self, settings: Settings) -> set[str]:
        import httpx

        try:
            async with httpx.AsyncClient() as http:
                reply = await http.get(f"http://{settings.http_host}:{settings.http_port}/readyz")
                return set(reply.json()["adapters"])
        except httpx.TransportError:
            return set()

    async def _ask(self, client: Client) -> tuple[Answered, dict[str, Any]]:
        """The message's answer, and what the base alone says under the same prompts and grammars."""
        answered = await client.ask(MESSAGE, CONTEXT)
        base = {}
        for name in ANSWERING:
            alone = await client.ask(MESSAGE, CONTEXT, adapter_id=f"{name}@base")
            base[name] = json.loads(alone.results[0][1].output or "null")
        return answered, base

    async def _report(self, pool: asyncpg.Pool, documents: list[str], counts: dict[str, Any], answered: Answered, base: dict[str, Any]) -> dict[str, Any]:
        rows = await pool.fetch("SELECT v.* FROM adapter_versions v JOIN adapter_aliases a ON a.adapter = v.adapter AND a.live_version = v.version ORDER BY 1")
        declared = load_project(self.settings.project).adapters
        adapters = [live_version(row, declared[row["adapter"]].task) for row in rows]
        results = [
            {
                "topic": topic, "adapter": r.engine_name, "output": json.loads(r.output) if r.output else None, "status": r.status,
                "base_output": base.get(r.adapter or ""), "latency_ms": round(sum(r.timings_ms.values()), 1),
            }
            for topic, r in answered.results
        ]
        return {"documents": len(documents), **counts, "base": await _base(pool), "adapters": adapters, "message": {"text": MESSAGE, "status": answered.completed.status, "results": results}}

    def _show(self, report: dict[str, Any], dead_letters: Counter[str]) -> None:
        data = Table("in and made", "count", title="From documents to answers")
        for name in ("documents", "pages", "chunks", "duplicates", "dead_letters"):
            data.add_row(name.replace("_", " "), str(report[name]))
        for name, count in report["datasets"].items():
            data.add_row(f"datasets.{name}", str(count))
        parked = Table("why", "count", title="Dead letters")
        for reason, count in dead_letters.most_common():
            parked.add_row(escape(reason), str(count))
        made = Table("examples", "count", title="What became of what was made")
        for what, count in report["yields"].items():
            made.add_row(what, str(count))
        adapters = Table("adapter", "metric", "held out", "base alone", "gate", title="Adapters trained in this run")
        if (b := report["base"])["epoch"]:
            adapters.add_row(f"base, epoch {b['epoch']}", "perplexity", f"{b['perplexity_after']:.2f}", f"{b['perplexity_before']:.2f}", "lower is better")
        for a in report["adapters"]:
            adapters.add_row(f"{a['name']}@{a['version']}", a["metric"], f"{a['value']:.3f}", f"{a['base_value']:.3f}", a["gate"])
        message = Table("topic", "adapter", "output", "base alone", "ms", title=report["message"]["text"])
        for r in report["message"]["results"]:
            message.add_row(r["topic"], r["adapter"], json.dumps(r["output"]), json.dumps(r["base_output"]), str(r["latency_ms"]))
        for table in (data, made, *([parked] if dead_letters else []), adapters, message):
            self.console.print(table)
        self.console.print(f"Report: {self.report}. Took {sum(self.seconds.values()):.0f} s: " + ", ".join(f"{name} {s:.0f}" for name, s in self.seconds.items()))

    @contextmanager
    def _phase(self, name: str, words: str) -> Iterator[None]:
        self.console.print(f"[bold]{words}[/bold]")
        began = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - began, 1)


def live_version(row: Mapping[str, Any], task: str) -> dict[str, Any]:
    """What the report says of a version in the projection, by the metric of its task. Pure."""
    metrics, metric = json.loads(row["metrics"]), METRIC[task]
    return {
        "name": row["adapter"], "version": row["version"], "sha256": row["sha256"], "base_epoch": row["base_epoch"], "metric": metric,
        "value": metrics[metric], "base_value": metrics[f"base_{metric}"], "gate": row["verdict"],
    }  # fmt: skip


async def _base(pool: asyncpg.Pool) -> dict[str, Any]:
    """The base epoch that serves, and its perplexity on held-out documents before and after pre-training on the others."""
    epoch = await pool.fetchval("SELECT coalesce(max(epoch), 0) FROM base_epochs")
    metrics = json.loads(await pool.fetchval("SELECT metrics FROM adapter_versions WHERE adapter = $1 AND version = $2", BASE, epoch) or "{}")
    return {"epoch": epoch, "perplexity_before": metrics.get("base_perplexity"), "perplexity_after": metrics.get("perplexity")}


def check_message(answered: Answered) -> None:
    """Raises DemoFailed when the message that must always work got another answer."""
    outputs = {result.adapter: json.loads(result.output) for _, result in answered.results if result.output}
    wanted = {"classifier": "NEGATIVE", "tool": {"tool": "reset_password_flow", "user_id": "current"}}
    if outputs != wanted:
        raise DemoFailed(f"the message got {json.dumps(outputs)}, {json.dumps(wanted)} was expected")
