"""A teacher at an OpenAI-compatible endpoint: a real vLLM server with the bundled base, which is no good teacher; and one that writes as told."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from prometheus_client import REGISTRY

from inference.engines.vllm import ON_A_CPU
from loom.embedded.kafka import EmbeddedKafka, free_port
from loom.embedded.postgres import EmbeddedPostgres
from runtime.database import connect
from runtime.errors import InvalidInput
from runtime.project import TeacherLimits, load_project
from runtime.sealing import unseal
from schemas.events import DatasetRecord, DeadLetter, Example, ExampleStatus, Split
from streams.context import document_owner
from streams.synth import ASKED_BEFORE, BELOW, UNREAD
from streams.teacher.asks import MALFORMED, UNGROUNDED, Ask, Assignment
from streams.teacher.by_distilabel import offline_teacher, remote_teacher
from streams.teacher.calls import INVENTED
from streams.teacher.judge import Scores
from streams.teacher.kinds import KINDS
from streams.teacher.labelled import NOT_NAMED
from streams.teacher.ledger import BudgetSpent, Metered
from streams.teacher.questions import NOT_WRONG, Questions
from streams.teacher.teachers import Reply
from tests.support.endpoint import Endpoint, Rows, serving
from tests.support.kafka import read_all
from tests.support.streams import ROOT, System, document, streams
from trainers.conditions import LlmJudge
from trainers.evaluate import Asked, Invalid
from trainers.llm_judge import judged
from trainers.snapshot import Row

pytestmark = pytest.mark.timeout(400)
PROJECT = load_project(ROOT / "examples/pebblewire/loom.toml")
BASE = PROJECT.base_folder
ASKS = {kind.name for kinds in KINDS.values() for kind in kinds} | {Scores.name}
PAGE = b"# Hub\n\nThe hub pairs with sixty devices at most. Concrete walls shorten the radio range considerably.\n"


@contextmanager
def vllm_server(port: int, log: Path) -> Iterator[None]:
    """vLLM's own server under its own command, with room for the prompt and the reply."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", BASE, "--served-model-name", "small", "--port", str(port)]
    command += ["--host", "127.0.0.1", "--max-model-len", "8192", "--enforce-eager", "--kv-cache-memory-bytes", str(512 << 20)]
    command += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']  # else so small a model writes blanks for ever
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"} | ON_A_CPU)
        try:
            yield
        finally:
            server.terminate()
            server.wait(60)


async def until_up(port: int, log: Path) -> None:
    for _ in range(300):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                return
        except httpx.TransportError:
            await asyncio.sleep(1)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


def asked(kind: Ask, passage: str) -> Assignment:
    return Assignment(kind, PROJECT.adapters["chat"], passage)


@pytest.mark.asyncio
async def test_chunks_wait_for_the_teacher_and_what_it_writes_is_checked(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    port, log = free_port(), tmp_path / "vllm.log"
    teacher = remote_teacher(f"http://127.0.0.1:{port}/v1", "small", "", 120)
    monkeypatch.setattr(Ask, "reply_tokens", 160)  # so small a model writes nonsense for as long as it may
    limits = TeacherLimits(usd_per_million_input=2.0, usd_per_million_output=8.0, budget_usd=1.0)
    pool = await connect(postgres.url)
    async with streams(kafka.address, postgres.url, tmp_path, Metered(teacher, limits, pool), PROJECT) as system:
        await system.publish(document("hub", PAGE))
        await asyncio.sleep(8)
        assert await read_all(kafka.address, f"{system.prefix}examples") == []
        with vllm_server(port, log):
            await until_up(port, log)
            examples = [e for e in await system.settled("examples", Example, seconds=150) if e.adapter != "cpt"]
            assert {e.adapter for e in examples} == {"chat", "tool", "classifier", "ner"}
            assert {e.teacher for e in examples} == {"small"}
            assert {e.reason for e in examples} <= {None, MALFORMED, UNGROUNDED, NOT_WRONG, INVENTED, NOT_NAMED, UNREAD, BELOW, ASKED_BEFORE}
            assert all(e.judge_score is not None and 0 <= e.judge_score <= 1 for e in examples if e.status is ExampleStatus.KEPT or e.reason == BELOW)
            assert await read_all(kafka.address, f"{system.prefix}dead-letters") == []
            # what it cost is on the units, on their examples, and on the teacher's account
            spent = await pool.fetchrow("SELECT requests, input_tokens, output_tokens, usd FROM teacher_usage")
            assert spent["input_tokens"] > 100
            assert spent["usd"] == pytest.approx((2 * spent["input_tokens"] + 8 * spent["output_tokens"]) / 1e6)
            assert sum(REGISTRY.get_sample_value("loom_teacher_cost_usd_total", {"teacher": "small", "kind": kind}) or 0 for kind in ASKS) == pytest.approx(spent["usd"])
            assert 0 < sum(e.teacher_usd or 0 for e in examples) == pytest.approx(await pool.fetchval("SELECT sum(usd) FROM teacher_units"))
            held_out = [Asked(PROJECT.adapters["chat"].spec, Row(str(i), str(i), Split.EVALUATION, {"input": {"question": "How many devices?", "passage": ANSWER}, "output": {"answer": ANSWER}})) for i in range(3)]
            verdict = await asyncio.to_thread(judged, LlmJudge(f"http://127.0.0.1:{port}/v1", "small", "", limits), held_out, [ANSWER, "Ninety.", Invalid()])
            assert len(verdict.scores) == 3
            assert all(0 <= score <= 1 for score in verdict.scores)
            assert verdict.usd > 0
            with pytest.raises(InvalidInput, match="teacher small refused this passage"):
                await teacher.ask(asked(Questions(), "far too long " * 5000))
        # asked once, ever: the same words again need no teacher
        units = await system.context.pool.fetchval("SELECT count(*) FROM teacher_units")
        await system.publish(document("hub", PAGE + b"\n## Ring\n\n", revision=2))
        assert await system.settled("dead-letters", DeadLetter) == []
        assert await system.context.pool.fetchval("SELECT count(*) FROM teacher_units") == units
    await pool.close()


ANSWER, OTHER = "The hub pairs with sixty devices at most.", "Concrete walls shorten the radio range considerably."
REPLIES: dict[str, Rows] = {
    "questions": [{"question": "How many devices?", "answer": ANSWER, "topic": "devices"}, {"question": "What of walls?", "answer": "They are fine.", "topic": "walls"}],
    "conversations": [{"turns": [{"question": "What of the hub?", "answer": ANSWER}, {"question": "And the walls?", "answer": OTHER}]}],
    "preferences": [{"question": "How many devices?", "answer": ANSWER, "wrong": "It pairs with ninety."}],
    "calls": [
        {"parts": [{"text": "restart the den hub", "tool": "restart_hub", "arguments": {"hub_name": "den"}}, {"text": "and reset my password", "tool": "reset_password_flow", "arguments": {}}]},
        {"parts": [{"text": "find my parcel", "tool": "track_order", "arguments": {"order_id": "777"}}]},
        {"parts": [{"text": "how many devices?", "tool": "none", "arguments": {}}]},
    ],
    "labels": [{"text": "the walls again, I am fed up", "label": "NEGATIVE"}, {"text": "zzzz", "label": "POSITIVE"}],
    "entities": [{"text": "Mia has a hub in the den", "entities": [{"text": "Mia", "label": "PERSON"}, {"text": "hub", "label": "DEVICE"}]}],
}  # fmt: skip


def scores(prompt: str) -> Rows:
    """5 for each example, 1 for nonsense."""
    return [{"score": 1 if "zzzz" in line else 5} for line in prompt.splitlines() if re.match(r"[0-9]+\. ", line)]


@pytest.mark.asyncio
async def test_examples_for_every_adapter_and_their_end_with_the_document(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    port = free_port()
    endpoint = Endpoint({name: lambda _, rows=rows: rows for name, rows in REPLIES.items()} | {"scores": scores}, failing=3)
    project = PROJECT.model_copy(update={"adapters": {**PROJECT.adapters, "tool": PROJECT.adapters["tool"].model_copy(update={"context": {"user_id": "current"}})}})
    async with serving(endpoint, port), streams(kafka.address, postgres.url, tmp_path, remote_teacher(f"http://127.0.0.1:{port}/v1", "big", "key", 20), project) as system:
        await system.publish(document("hub", PAGE))
        examples = await system.settled("examples", Example)
        assert endpoint.refused == 3  # tried again
        assert Counter(endpoint.asked) == {**dict.fromkeys(REPLIES, 1), "scores": 6}
        verdicts = Counter((e.adapter, e.reason, e.judge_score) for e in examples if e.adapter != "cpt")
        assert verdicts == {
            ("chat", None, 1.0): 4, ("chat", UNGROUNDED, None): 1, ("tool", None, 1.0): 3, ("tool", INVENTED, None): 1,
            ("classifier", None, 1.0): 1, ("classifier", BELOW, 0.0): 1, ("ner", None, 1.0): 1,
        }  # fmt: skip
        assert REGISTRY.get_sample_value("loom_examples_total", {"adapter": "chat", "teacher": "big", "outcome": "kept"}) == 4
        assert REGISTRY.get_sample_value("loom_examples_total", {"adapter": "tool", "teacher": "big", "outcome": INVENTED}) == 1
        assert {r.judge_score for name in ("chat", "preferences", "ner") for r in await system.settled(f"datasets.{name}", DatasetRecord)} == {1.0}
        (pair,) = [b for b in await bodies(system, "preferences") if b.get("rejected") == {"answer": "It pairs with ninety."}]
        assert pair["output"] == {"answer": ANSWER}
        assert sorted(str(b["output"]["calls"]) for b in await bodies(system, "tool")) == ["[]", "[{'hub_name': 'den', 'tool': 'restart_hub'}]", "[{'tool': 'reset_password_flow', 'user_id': 'current'}]"]
        (named,) = await bodies(system, "ner")
        assert [named["input"]["text"][e["start"] : e["end"]] for e in named["output"]["entities"]] == ["Mia", "hub"]
        # all of it goes with its document, whoever made it
        await system.publish(document("hub", None, revision=2, deleted=True))
        every = await system.settled("examples", Example)
        last = {e.example_id: e.status for e in every}
        assert set(last.values()) == {ExampleStatus.WITHDRAWN}
        assert await system.now("dead-letters", DeadLetter) == []


async def bodies(system: System, dataset: str) -> list[dict[str, Any]]:
    """What the live records of a dataset hold."""
    key = await system.context.keys.key(document_owner("hub"))
    records = await system.settled(f"datasets.{dataset}", DatasetRecord)
    return [json.loads(unseal(key, r.example_id + ":body", r.body)) for r in records if r.body]


@pytest.mark.asyncio
async def test_workers_together_spend_no_more_than_the_budget(postgres: EmbeddedPostgres) -> None:
    """The offline teacher uses no tokens, so that of each request nothing stays booked when it ends."""
    pool = await connect(postgres.url)
    await pool.execute("TRUNCATE teacher_usage")
    one = Metered(offline_teacher(), TeacherLimits(budget_tokens=10_000), pool)
    other = Metered(offline_teacher(), TeacherLimits(budget_tokens=10_000), pool)
    request = asked(Questions(), "The hub pairs with sixty devices at most.")
    answers = await asyncio.gather(*(teacher.ask(request) for teacher in [one, other] * 10), return_exceptions=True)
    assert {type(answer) for answer in answers} == {Reply, BudgetSpent}  # each books about 2,300 tokens
    assert tuple(await pool.fetchrow("SELECT input_tokens, output_tokens, usd FROM teacher_usage")) == (0, 0, 0.0)
    await pool.execute("UPDATE teacher_usage SET output_tokens = 9000")
    with pytest.raises(BudgetSpent, match=r"9,000 of budget_tokens = 10,000 are spent.*raise it under \[teacher\] in loom.toml"):
        await one.ask(request)
    await pool.close()
