"""A teacher at an OpenAI-compatible endpoint: a real vLLM server, here with the bundled base, which is no good teacher."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from loom.embedded.kafka import EmbeddedKafka, free_port
from loom.embedded.postgres import EmbeddedPostgres
from runtime.database import connect
from runtime.errors import InvalidInput
from runtime.project import TeacherLimits, load_project
from schemas.events import DeadLetter, Example, ExampleStatus
from streams.teacher.ledger import BudgetSpent, Metered
from streams.teacher.teachers import Reply, offline_teacher, remote_teacher
from tests.support.kafka import read_all
from tests.support.streams import ROOT, document, streams

pytestmark = pytest.mark.timeout(400)
BASE = load_project(ROOT / "examples/pebblewire/loom.toml").base_folder
PAGE = b"# Hub\n\nThe hub pairs with sixty devices at most. Concrete walls shorten the radio range considerably.\n"


@contextmanager
def vllm_server(port: int, log: Path) -> Iterator[None]:
    """vLLM's own server under its own command, with room for the prompt and the reply."""
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", BASE, "--served-model-name", "small", "--port", str(port)]
    command += ["--host", "127.0.0.1", "--max-model-len", "4096", "--enforce-eager", "--kv-cache-memory-bytes", str(512 << 20)]
    command += ["--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}']  # else so small a model writes blanks for ever
    with log.open("wb") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | {"VLLM_ALLOW_LONG_MAX_MODEL_LEN": "1"})
        try:
            yield
        finally:
            server.terminate()
            server.wait(30)


async def until_up(port: int, log: Path) -> None:
    for _ in range(300):
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health").status_code == 200:
                return
        except httpx.TransportError:
            await asyncio.sleep(1)
    raise AssertionError(log.read_text(errors="replace")[-3000:])


@pytest.mark.asyncio
async def test_chunks_wait_for_the_teacher_and_its_unsupported_answers_are_rejected(kafka: EmbeddedKafka, postgres: EmbeddedPostgres, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "vllm.log"
    teacher = remote_teacher(f"http://127.0.0.1:{port}/v1", "small", "", 120)
    limits = TeacherLimits(usd_per_million_input=2.0, usd_per_million_output=8.0, budget_usd=1.0)
    pool = await connect(postgres.url)
    async with streams(kafka.address, postgres.url, tmp_path, Metered(teacher, limits, pool)) as system:
        await system.publish(document("hub", PAGE))
        await asyncio.sleep(8)
        assert await read_all(kafka.address, f"{system.prefix}examples") == []
        with vllm_server(port, log):
            await until_up(port, log)
            examples = [e for e in await system.read("examples", Example, 2, seconds=60) if e.task == "chat"]
            assert {e.teacher for e in examples} == {"small"}
            assert {(e.status, e.reason) for e in examples} <= {(ExampleStatus.KEPT, None), (ExampleStatus.REJECTED, "the answer is no span of the passage")}
            assert await read_all(kafka.address, f"{system.prefix}dead-letters") == []
            # what it cost is on the unit, on its examples, and on the teacher's account
            spent = await pool.fetchrow("SELECT requests, input_tokens, output_tokens, usd FROM teacher_usage")
            assert spent["input_tokens"] > 100
            assert spent["usd"] == pytest.approx((2 * spent["input_tokens"] + 8 * spent["output_tokens"]) / 1e6)
            assert spent["usd"] == pytest.approx(await pool.fetchval("SELECT sum(usd) FROM teacher_units")) == pytest.approx(sum(e.teacher_usd for e in examples))
            with pytest.raises(InvalidInput, match="teacher small refused this chunk"):
                await teacher.ask("far too long " * 5000, "Hub")
        # asked once, ever: the same words again need no teacher
        units = await system.context.pool.fetchval("SELECT count(*) FROM teacher_units")
        await system.publish(document("hub", PAGE + b"\n## Ring\n\n", revision=2))
        await asyncio.sleep(5)
        assert await system.context.pool.fetchval("SELECT count(*) FROM teacher_units") == units
        assert await system.read("dead-letters", DeadLetter, 0) == []
    await pool.close()


@pytest.mark.asyncio
async def test_workers_together_spend_no_more_than_the_budget(postgres: EmbeddedPostgres) -> None:
    """The offline teacher uses no tokens, so that of each request nothing stays booked when it ends."""
    pool = await connect(postgres.url)
    await pool.execute("TRUNCATE teacher_usage")
    one = Metered(offline_teacher(), TeacherLimits(budget_tokens=10_000), pool)
    other = Metered(offline_teacher(), TeacherLimits(budget_tokens=10_000), pool)
    asked = await asyncio.gather(*(teacher.ask("The hub pairs with sixty devices at most.", "Hub") for teacher in [one, other] * 10), return_exceptions=True)
    assert {type(answer) for answer in asked} == {Reply, BudgetSpent}  # each books 2,469 tokens
    assert tuple(await pool.fetchrow("SELECT input_tokens, output_tokens, usd FROM teacher_usage")) == (0, 0, 0.0)
    await pool.execute("UPDATE teacher_usage SET output_tokens = 9000")
    with pytest.raises(BudgetSpent, match=r"9,000 of budget_tokens = 10,000 are spent.*raise it under \[teacher\] in loom.toml"):
        await one.ask("The hub pairs with sixty devices at most.", "Hub")
    await pool.close()
