"""synth: `chunks` in, `examples` out: what a teacher makes of each live chunk for every adapter, raw text for continued pre-training.

State: `teacher_units` (`streams.teacher.units`) and `question_claims` (`streams.questions`).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from runtime import metrics
from runtime.errors import InvalidInput
from runtime.ids import canonical_json, digest, keyed_hash
from runtime.kafka import Outgoing, Record
from runtime.project import Adapter
from runtime.sealing import HASH_OWNER, Key, seal, unseal
from runtime.tasks import samples
from runtime.tasks.prompt import normalised
from schemas.events import Chunk, ChunkStatus, Example, ExampleStatus
from schemas.topics import CHUNKS, CPT, EXAMPLES
from streams.context import Context, document_owner
from streams.questions import Claim, QuestionClaims
from streams.teacher.asks import MALFORMED, Assignment, Item
from streams.teacher.judge import Scores, shares
from streams.teacher.kinds import kinds_of
from streams.teacher.teachers import Teacher
from streams.teacher.units import Unit, Units

CPT_VERSION = "text-1"
NO_TEACHER = "none"
ASKED_BEFORE, UNREAD, BELOW = "it was asked before", "the teacher's reply could not be used", "the judge's score is too low"
JUDGE = Scores()
log = structlog.get_logger()


class SynthStage:
    """The stage."""

    name = "synth"
    topic = CHUNKS.name

    def __init__(self, context: Context, teacher: Teacher) -> None:
        self._context = context
        self._teacher = teacher
        self._units = Units(context.pool, teacher)
        self._claims = QuestionClaims(context.pool)

    async def handle(self, record: Record) -> Sequence[Outgoing]:
        chunk = self._context.codec.decode(Chunk, record.value)
        if chunk.status is ChunkStatus.DUPLICATE:
            return ()
        examples = await (self._withdraw(chunk) if chunk.status is ChunkStatus.WITHDRAWN else self._make(chunk))
        if chunk.status is ChunkStatus.LIVE:
            metrics.CHUNKS.inc()
            for (adapter, teacher, outcome), number in Counter((e.adapter, e.teacher, e.reason or "kept") for e in examples).items():
                metrics.EXAMPLES.labels(adapter, teacher, outcome).inc(number)
        return [self._context.outgoing(self.name, EXAMPLES.name, e.example_id, digest(e.example_id, record.origin), e, record) for e in examples]

    async def _make(self, chunk: Chunk) -> list[Example]:
        if chunk.text is None or chunk.heading_path is None:
            raise InvalidInput(f"chunk {chunk.chunk_id} is live and has no text")
        key = await self._context.keys.key(document_owner(chunk.doc_id))
        text, heading = unseal(key, chunk.chunk_id, chunk.text), unseal(key, chunk.chunk_id + ":path", chunk.heading_path)
        own = text[chunk.overlap :]  # nothing is learned, or asked about, twice
        drafts: list[_Draft] = []
        for name, adapter in self._context.project.adapters.items():
            for kind in kinds_of(adapter, self._teacher.able):
                assignment = Assignment(kind, adapter, own, heading, text)
                drafts += await self._written(chunk, Unit(chunk.chunk_id, name, adapter.task, kind.version(adapter), self._teacher.name), assignment, key)
        return [text_example(chunk, text, heading, key), *(draft.example(key) for draft in drafts)]

    async def _written(self, chunk: Chunk, unit: Unit, assignment: Assignment, key: Key) -> list[_Draft]:
        """A unit's examples, those that can't be kept with the reason. A unit that fails costs itself alone."""
        try:
            rows, usd = await self._units.rows(unit, assignment, key)
            items = assignment.ask.items(rows, assignment)
            drafts = [_Draft(chunk, unit, unit.example_id(n), family(chunk.doc_id, item.topic), item.given, item.wanted, usd / len(items), _fault(item, assignment.adapter)) for n, item in enumerate(items)]
            drafts = await self._not_held_out(drafts)
            drafts = await self._judged(unit, assignment, drafts, key)
        except InvalidInput as error:
            log.warning("synth.unit_failed", chunk_id=chunk.chunk_id, adapter=unit.adapter, version=unit.version, error=str(error))
            return [_Draft(chunk, unit, unit.example_id(0), chunk.doc_id, fault=UNREAD)]
        return await self._not_asked_before(drafts)

    async def _not_held_out(self, drafts: Sequence[_Draft]) -> list[_Draft]:
        met = await asyncio.to_thread(self._context.held_out.meets, [samples.asked(d.given) for d in drafts])
        return [replace(d, fault=d.fault or why) for d, why in zip(drafts, met, strict=True)]

    async def _judged(self, unit: Unit, assignment: Assignment, drafts: list[_Draft], key: Key) -> list[_Draft]:
        least = self._context.project.teacher.min_judge_score
        good = [d for d in drafts if not d.fault]
        if not good or not least or JUDGE.name not in self._teacher.able:
            return drafts
        examples = tuple({"input": {n: v for n, v in d.given.items() if n != "passage"}, "output": d.wanted} for d in good)
        version = f"{JUDGE.version(assignment.adapter)}-{digest(unit.version, canonical_json(examples))[:8]}"
        rows, usd = await self._units.rows(replace(unit, version=version), replace(assignment, ask=JUDGE, examples=examples), key)
        scores = shares(rows, len(good))
        if scores is None:
            raise InvalidInput(f"the judge {unit.teacher} gave {len(rows)} scores for {len(good)} examples, or others than it was asked for")
        by_id = dict(zip((d.example_id for d in good), scores, strict=True))
        return [replace(d, usd=(d.usd or 0.0) + usd / len(good), score=by_id[d.example_id], fault=None if by_id[d.example_id] >= least else BELOW) if d.example_id in by_id else d for d in drafts]

    async def _not_asked_before(self, drafts: list[_Draft]) -> list[_Draft]:
        secret = (await self._context.keys.key(HASH_OWNER)).secret
        asked = {d.example_id: question_hash(secret, d.unit.adapter, d.given, d.wanted) for d in drafts if not d.fault}
        owners = await self._claims.claim([Claim(asked[d.example_id], d.example_id, d.chunk.chunk_id) for d in drafts if d.example_id in asked])
        return [replace(d, fault=ASKED_BEFORE) if d.example_id in asked and owners[asked[d.example_id]] != d.example_id else d for d in drafts]

    async def _withdraw(self, chunk: Chunk) -> list[Example]:
        units = [_text_unit(chunk), *await self._units.of(chunk.chunk_id)]
        drafts = [_Draft(chunk, unit, unit.example_id(ordinal), chunk.doc_id) for unit in units for ordinal in range(unit.item_count)]
        await self._claims.give_back(chunk.chunk_id)
        return [draft.withdrawal for draft in drafts]


@dataclass(frozen=True, slots=True)
class _Draft:
    """An example on its way; with a `fault` it is not kept."""

    chunk: Chunk
    unit: Unit
    example_id: str
    group_id: str
    given: Mapping[str, Any] = field(default_factory=dict)
    wanted: Mapping[str, Any] = field(default_factory=dict)
    usd: float | None = None
    fault: str | None = None
    score: float | None = None

    def example(self, key: Key) -> Example:
        """The example, kept or rejected."""
        given, wanted = seal(key, self.example_id, canonical_json(self.given)), seal(key, self.example_id + ":output", canonical_json(self.wanted))
        status = ExampleStatus.REJECTED if self.fault else ExampleStatus.KEPT
        return replace(self.withdrawal, input=given, output=wanted, teacher_usd=self.usd, judge_score=self.score, status=status, reason=self.fault)

    @property
    def withdrawal(self) -> Example:
        """The word that there is no such example any more."""
        return Example(
            example_id=self.example_id, adapter=self.unit.adapter, task=self.unit.task, group_id=self.group_id, chunk_id=self.chunk.chunk_id, doc_id=self.chunk.doc_id,
            teacher=self.unit.teacher, prompt_version=self.unit.version, status=ExampleStatus.WITHDRAWN, reason="its chunk was withdrawn",
        )  # fmt: skip


def question(adapter: str, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    """What an example asks, the same for all who ask it; a preference asks something of its own."""
    texts = [normalised(value if isinstance(value, str) else canonical_json(value)) for _, value in sorted(given.items()) if isinstance(value, (str, list))]
    return canonical_json([adapter, "rejected" in wanted, *texts])


def question_hash(secret: bytes, adapter: str, given: Mapping[str, Any], wanted: Mapping[str, Any]) -> bytes:
    """16 bytes that stand for a question; who lacks the secret can't test guesses."""
    return bytes.fromhex(keyed_hash(secret, question(adapter, given, wanted))[:32])


def text_example(chunk: Chunk, text: str, heading: str, key: Key) -> Example:
    """What continued pre-training learns of a live chunk with this text, under this heading path."""
    own = text[chunk.overlap :]
    unit = _text_unit(chunk)
    return _Draft(chunk, unit, unit.example_id(0), chunk.doc_id, {}, {"text": f"{heading}\n\n{own}" if heading else own}).example(key)


def _text_unit(chunk: Chunk) -> Unit:
    return Unit(chunk.chunk_id, CPT, CPT, CPT_VERSION, NO_TEACHER, 1)


def _fault(item: Item, adapter: Adapter) -> str | None:
    """Why an item can't be kept; no words of it, since reasons are not sealed."""
    if item.fault:
        return item.fault
    try:
        samples.render(adapter.spec, {"input": item.given, "output": item.wanted})
    except ValueError:
        return MALFORMED
    return None


def family(doc_id: str, topic: str) -> str:
    """The group of a question: paraphrases of it are trained on, or held out, as one."""
    return digest("family", doc_id, normalised(topic))
