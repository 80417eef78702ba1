"""synth: `chunks` in, `examples` out: grounded questions for the chat adapters, raw text for continued pre-training.

State: `teacher_units`: a (chunk, task, prompt version, teacher) is asked for once, ever; its reply is kept sealed.
`question_claims`: who asked what first (`streams.questions`).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from runtime.errors import InvalidInput
from runtime.ids import canonical_json, digest, keyed_hash
from runtime.kafka import Outgoing, Record
from runtime.sealing import HASH_OWNER, Key, open_bytes, seal, seal_bytes, unseal
from runtime.tasks.prompt import normalised, one_line
from schemas.events import Chunk, ChunkStatus, Example, ExampleStatus
from schemas.topics import CHUNKS, CPT, EXAMPLES
from streams.context import Context, document_owner
from streams.questions import Claim, QuestionClaims
from streams.teacher.questions import PROMPT_VERSION, QuestionAnswer
from streams.teacher.teachers import Teacher

CPT_VERSION = "text-1"
UNGROUNDED, ASKED_BEFORE = "the answer is no span of the passage", "the question was asked before"


class SynthStage:
    """The stage."""

    name = "synth"
    topic = CHUNKS.name

    def __init__(self, context: Context, teacher: Teacher) -> None:
        self._context = context
        self._teacher = teacher
        self._claims = QuestionClaims(context.pool)
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
        drafts = [_Draft(chunk, CPT, CPT_VERSION, "none", 0, chunk.doc_id, {}, {"text": f"{heading}\n\n{own}" if heading else own})]
        pairs, usd = await self._questions(chunk, own, heading, key) if self._chat else ([], 0.0)
        for adapter in self._chat:
            for ordinal, pair in enumerate(pairs):
                given = {"question": pair.question} | ({"passage": text} if ordinal % 2 == 0 else {})  # open and closed book by turns
                drafts.append(_Draft(chunk, adapter, PROMPT_VERSION, self._teacher.name, ordinal, family(chunk.doc_id, pair.topic), given, {"answer": pair.answer}, usd / len(pairs) / len(self._chat)))
        faults = {d.example_id: UNGROUNDED for d in drafts[1:] if not one_line(d.wanted["answer"]) or one_line(d.wanted["answer"]) not in one_line(text)}
        faults |= await self._faults([d for d in drafts[1:] if d.example_id not in faults])
        return [draft.example(key, faults.get(draft.example_id)) for draft in drafts]

    async def _faults(self, drafts: Sequence[_Draft]) -> dict[str, str]:
        """Why some of `drafts` are not kept, by id: models are judged by their texts, or they were asked before."""
        met = await asyncio.to_thread(self._context.held_out.meets, [d.given["question"] for d in drafts])
        found = {draft.example_id: why for draft, why in zip(drafts, met, strict=True) if why}
        secret = (await self._context.keys.key(HASH_OWNER)).secret
        asked = {d.example_id: keyed_hash(secret, canonical_json([d.adapter, *map(normalised, d.given.values())])) for d in drafts if d.example_id not in found}
        owners = await self._claims.claim([Claim(asked[d.example_id], d.example_id, d.chunk.doc_id, d.chunk.chunk_id) for d in drafts if d.example_id in asked])
        return found | {example_id: ASKED_BEFORE for example_id, input_hash in asked.items() if owners[input_hash] != example_id}

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
        drafts = [_Draft(chunk, CPT, CPT_VERSION, "none", 0, chunk.doc_id)]
        drafts += [_Draft(chunk, adapter, PROMPT_VERSION, self._teacher.name, ordinal, chunk.doc_id) for adapter in self._chat for ordinal in range(count or 0)]
        await self._claims.give_back([d.example_id for d in drafts])
        return [draft.withdrawal for draft in drafts]


@dataclass(frozen=True, slots=True)
class _Draft:
    """An example before it is known whether it is kept."""

    chunk: Chunk
    adapter: str
    version: str
    teacher: str
    ordinal: int
    group_id: str
    given: Mapping[str, str] = field(default_factory=dict)
    wanted: Mapping[str, str] = field(default_factory=dict)
    usd: float | None = None

    @property
    def example_id(self) -> str:
        return digest("example", self.chunk.chunk_id, self.adapter, self.version, self.teacher, self.ordinal)

    def example(self, key: Key, fault: str | None) -> Example:
        """The example; rejected where there is a fault."""
        given, wanted = seal(key, self.example_id, canonical_json(self.given)), seal(key, self.example_id + ":output", canonical_json(self.wanted))
        status = ExampleStatus.REJECTED if fault else ExampleStatus.KEPT
        return replace(self.withdrawal, input=given, output=wanted, teacher_usd=self.usd, status=status, reason=fault)

    @property
    def withdrawal(self) -> Example:
        """The word that there is no such example any more."""
        return Example(
            example_id=self.example_id, adapter=self.adapter, task=CPT if self.adapter == CPT else "chat", group_id=self.group_id, chunk_id=self.chunk.chunk_id, doc_id=self.chunk.doc_id,
            teacher=self.teacher, prompt_version=self.version, status=ExampleStatus.WITHDRAWN, reason="its chunk was withdrawn",
        )  # fmt: skip


def family(doc_id: str, topic: str) -> str:
    """The group of a question: paraphrases of it are trained on, or held out, as one."""
    return digest("family", doc_id, normalised(topic))


def _unit_id(chunk_id: str, teacher: str) -> str:
    return digest("unit", chunk_id, PROMPT_VERSION, teacher)
