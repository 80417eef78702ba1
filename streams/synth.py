"""synth: `chunks` in, `examples` out: grounded questions for the chat adapters, raw text for continued pre-training.

State: `teacher_units`: a (chunk, task, prompt version, teacher) is asked for once, ever; its reply is kept sealed.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace

from runtime.errors import InvalidInput
from runtime.ids import canonical_json, digest
from runtime.kafka import Outgoing, Record
from runtime.sealing import Key, open_bytes, seal, seal_bytes, unseal
from runtime.tasks.prompt import normalised
from schemas.events import Chunk, ChunkStatus, Example, ExampleStatus
from schemas.topics import CHUNKS, CPT, EXAMPLES
from streams.context import Context, document_owner
from streams.teacher.questions import PROMPT_VERSION, QuestionAnswer
from streams.teacher.teachers import Teacher

CPT_VERSION = "text-1"


class SynthStage:
    """The stage."""

    name = "synth"
    topic = CHUNKS.name

    def __init__(self, context: Context, teacher: Teacher) -> None:
        self._context = context
        self._teacher = teacher
        self._chat = [name for name, adapter in context.project.adapters.items() if adapter.task == "chat"]

    async def handle(self, record: Record) -> Sequence[Outgoing]:
        chunk = self._context.codec.decode(Chunk, record.value)
        if chunk.status is ChunkStatus.DUPLICATE:
            return ()
        examples = await (self._withdraw(chunk) if chunk.status is ChunkStatus.WITHDRAWN else self._make(chunk))
        return [self._context.outgoing(self.name, EXAMPLES.name, e.example_id, digest(e.example_id, record.origin), e, record) for e in examples]

    async def _make(self, chunk: Chunk) -> list[Example]:
        if chunk.text is None or chunk.heading_path is None:
            raise InvalidInput(f"chunk {chunk.chunk_id} is live and has no text")
        key = await self._context.keys.key(document_owner(chunk.doc_id))
        text, heading = unseal(key, chunk.chunk_id, chunk.text), unseal(key, chunk.chunk_id + ":path", chunk.heading_path)
        own = text[chunk.overlap :]  # nothing is learned, or asked about, twice
        made = [self._example(chunk, CPT, CPT, CPT_VERSION, 0, {}, {"text": f"{heading}\n\n{own}" if heading else own}, key, text, chunk.doc_id)]
        pairs, usd = await self._questions(chunk, own, heading, key) if self._chat else ([], 0.0)
        each = usd / max(1, len(pairs) * len(self._chat))
        for adapter in self._chat:
            for ordinal, pair in enumerate(pairs):
                given = {"question": pair.question} | ({"passage": text} if ordinal % 2 == 0 else {})  # open and closed book by turns
                example = self._example(chunk, adapter, "chat", PROMPT_VERSION, ordinal, given, {"answer": pair.answer}, key, text, family(chunk.doc_id, pair.topic))
                made.append(replace(example, teacher_usd=each))
        return made

    def _example(self, chunk: Chunk, adapter: str, task: str, version: str, ordinal: int, given: dict[str, str], wanted: dict[str, str], key: Key, text: str, group: str) -> Example:
        teacher = "none" if task == CPT else self._teacher.name
        example_id = _example_id(chunk.chunk_id, adapter, version, teacher, ordinal)
        answer = " ".join(wanted.get("answer", "").split())
        grounded = task == CPT or (bool(answer) and answer in " ".join(text.split()))
        return Example(
            example_id=example_id, adapter=adapter, task=task, input=seal(key, example_id, canonical_json(given)), output=seal(key, example_id + ":output", canonical_json(wanted)),
            group_id=group, chunk_id=chunk.chunk_id, doc_id=chunk.doc_id, teacher=teacher, prompt_version=version, judge_score=None,
            status=ExampleStatus.KEPT if grounded else ExampleStatus.REJECTED, reason=None if grounded else "the answer is no span of the passage",
        )  # fmt: skip

    async def _questions(self, chunk: Chunk, text: str, heading: str, key: Key) -> tuple[list[QuestionAnswer], float]:
        """The teacher's questions on a chunk, asked for once, and what they cost in US dollars."""
        unit = _unit_id(chunk.chunk_id, self._teacher.name)
        row = await self._context.pool.fetchrow("SELECT nonce, ciphertext, usd FROM teacher_units WHERE unit_id = $1", unit)
        if row is not None:
            return [QuestionAnswer(**pair) for pair in json.loads(open_bytes(key, unit, row["nonce"], row["ciphertext"]))], row["usd"]
        reply = await self._teacher.ask(text, heading)
        nonce, ciphertext = seal_bytes(key, unit, canonical_json([asdict(pair) for pair in reply.questions]).encode())
        await self._context.pool.execute(
            "INSERT INTO teacher_units (unit_id, key_owner, item_count, nonce, ciphertext, usd) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING",
            unit, key.key_id, len(reply.questions), nonce, ciphertext, reply.usage.usd,
        )  # fmt: skip
        return reply.questions, reply.usage.usd

    async def _withdraw(self, chunk: Chunk) -> list[Example]:
        count = await self._context.pool.fetchval("SELECT item_count FROM teacher_units WHERE unit_id = $1", _unit_id(chunk.chunk_id, self._teacher.name))
        named = [(CPT, CPT, CPT_VERSION, "none", 0)]
        named += [(adapter, "chat", PROMPT_VERSION, self._teacher.name, ordinal) for adapter in self._chat for ordinal in range(count or 0)]
        return [
            Example(
                example_id=_example_id(chunk.chunk_id, adapter, version, teacher, ordinal), adapter=adapter, task=task, input=None, output=None, group_id=chunk.doc_id,
                chunk_id=chunk.chunk_id, doc_id=chunk.doc_id, teacher=teacher, prompt_version=version, judge_score=None, status=ExampleStatus.WITHDRAWN, reason="its chunk was withdrawn",
            )
            for adapter, task, version, teacher, ordinal in named
        ]


def family(doc_id: str, topic: str) -> str:
    """The group of a question: paraphrases of it are trained on, or held out, as one."""
    return digest("family", doc_id, normalised(topic))


def _example_id(chunk_id: str, adapter: str, version: str, teacher: str, ordinal: int) -> str:
    return digest("example", chunk_id, adapter, version, teacher, ordinal)


def _unit_id(chunk_id: str, teacher: str) -> str:
    return digest("unit", chunk_id, PROMPT_VERSION, teacher)
