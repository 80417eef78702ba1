"""feedback: what users say of results becomes `examples`, joined to the request and the result while these are kept.

A corrected result is an example whose wrong answer is known, an accepted one an example as it is; a rating alone makes none.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from cachetools import TTLCache

from runtime.errors import InvalidInput, Transient
from runtime.ids import canonical_json, digest
from runtime.kafka import Outgoing, Record
from runtime.places import Place, meant, places_of
from runtime.sealing import seal, unseal
from runtime.tasks import samples
from schemas.events import Example, ExampleStatus, Feedback, FeedbackVerdict, Request, Result, ResultStatus
from schemas.topics import EXAMPLES, FEEDBACK
from streams.context import USER, Context, user_owner
from streams.format import check, task_spec

PATIENCE_SECONDS = 60.0
"""For so long a request that is not known may be on its way to the projection."""
Read = Callable[[Place], Awaitable[Record | None]]


class FeedbackStage:
    """feedback → examples. `read` gives the record at a place, None where it is kept no more."""

    name = "feedback"
    topic = FEEDBACK.name

    def __init__(self, context: Context, read: Read) -> None:
        self._context, self._read = context, read
        self._missed: TTLCache[str, float] = TTLCache(10_000, 10 * PATIENCE_SECONDS)

    async def handle(self, record: Record) -> Sequence[Outgoing]:
        feedback = self._context.codec.decode(Feedback, record.value)
        if feedback.verdict is FeedbackVerdict.RATED:
            return ()
        request, result = await self._joined(feedback)
        if result.adapter is None or result.status is not ResultStatus.OK:
            raise InvalidInput(f"result {result.result_id} answered nothing: it was {result.status}")
        spec = task_spec(self._context.project, result.adapter)
        said = samples.output_of(spec, json.loads(result.output or "null"))
        wanted = await self._wanted(feedback, spec) if feedback.verdict is FeedbackVerdict.CORRECTED else said
        try:
            body = {"input": samples.task_input(spec.task, result.text, request.context), "output": wanted}
        except ValueError as error:
            raise InvalidInput(f"the request's history is no JSON: {error}") from error
        check(spec, body)
        (reason,) = await asyncio.to_thread(self._context.held_out.meets, [samples.asked(body["input"])])
        key = await self._context.keys.key(user_owner(request))
        example_id = digest("feedback", feedback.feedback_id)
        output = wanted if wanted == said else {**wanted, "rejected": said}
        example = Example(
            example_id=example_id, adapter=result.adapter, task=spec.task, input=seal(key, example_id, canonical_json(body["input"])), output=seal(key, example_id + ":output", canonical_json(output)),
            group_id=digest("group", result.adapter, canonical_json(body["input"])), teacher=USER, prompt_version=result.engine_name or "", status=ExampleStatus.REJECTED if reason else ExampleStatus.KEPT, reason=reason,
        )  # fmt: skip
        return [self._context.outgoing(self.name, EXAMPLES.name, example_id, digest(example_id, record.origin), example, record)]

    async def _wanted(self, feedback: Feedback, spec: samples.TaskSpec) -> dict[str, Any]:
        """The corrected output. Raises InvalidInput where there is none that can be read."""
        if feedback.output is None:
            raise InvalidInput(f"feedback {feedback.feedback_id} corrects and has no output")
        key = await self._context.keys.key(feedback.output.key_id)
        try:
            return samples.output_of(spec, json.loads(unseal(key, feedback.feedback_id + ":output", feedback.output)))
        except ValueError as error:
            raise InvalidInput(f"the corrected output is no JSON: {error}") from error

    async def _joined(self, feedback: Feedback) -> tuple[Request, Result]:
        """What the feedback is about. Raises InvalidInput where it is not known or kept, or more than one result could be meant."""
        at, results = await places_of(self._context.pool, feedback.request_id)
        chosen = meant(results, feedback.request_id, feedback.result_id, self._context.prefix)
        if at is None or chosen is None:
            self._wait_for(feedback)
            raise InvalidInput(f"no result {feedback.result_id or ''} of request {feedback.request_id} is known: they are kept for days")
        request, result = await self._read(at), await self._read(chosen)
        if request is None or result is None:
            raise InvalidInput(f"request {feedback.request_id} or its result is kept no more")
        return self._context.codec.decode(Request, request.value), self._context.codec.decode(Result, result.value)

    def _wait_for(self, feedback: Feedback) -> None:
        """Raises Transient while what the feedback is about may still become known."""
        if time.monotonic() - self._missed.setdefault(feedback.feedback_id, time.monotonic()) < PATIENCE_SECONDS:
            raise Transient(f"request {feedback.request_id} is not known yet: is the projection up?")
