"""format: `labels` become `examples`, and kept `examples` become the strict records of `datasets.*`.

Everything that an adapter could not be trained on as it is declared is refused here, with the reason.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Mapping, Sequence
from typing import Any

from runtime.errors import InvalidInput
from runtime.ids import canonical_json, digest
from runtime.kafka import Outgoing, Record
from runtime.project import Project
from runtime.sealing import Key, seal, unseal
from runtime.tasks import samples
from runtime.tasks.preferences import PREFERENCE, plausible_wrong
from runtime.tasks.prompt import normalised
from schemas.events import DatasetRecord, Example, ExampleStatus, Label, RecordStatus, Sealed, Split
from schemas.topics import CPT, EXAMPLES, LABELS, PREFERENCES, dataset_topic
from streams.context import UPSTREAM, USER, Context

EVALUATION_SHARE = 10


def split_of(group_id: str) -> Split:
    """One group in ten is for evaluation; a group never parts."""
    return Split.EVALUATION if int(digest("split", group_id), 16) % EVALUATION_SHARE == 0 else Split.TRAIN


def group_of(label: Label) -> str:
    """Upstream's group, else the input's hash: equal inputs stay together."""
    return label.group_id or digest("group", label.adapter, normalised(label.input))


def label_owner(label_group: str) -> str:
    """The key owner of a label's text."""
    return f"label:{label_group}"


def task_spec(project: Project, adapter: str) -> samples.TaskSpec:
    """What `adapter` may answer. Raises InvalidInput when it is not declared."""
    if adapter == CPT:
        return samples.TaskSpec(CPT)
    declared = project.adapters.get(adapter)
    if declared is None:
        raise InvalidInput(f"no adapter {adapter!r} is declared: one of {', '.join(project.adapters)}")
    return declared.spec


def example_body(input_json: str, output_json: str) -> Mapping[str, Any]:
    """The body of a record. Raises InvalidInput when a part is no JSON object."""
    try:
        body = {"input": json.loads(input_json), "output": json.loads(output_json)}
    except ValueError as error:
        raise InvalidInput(f"input and output must be JSON: {error}") from error
    if not all(isinstance(part, dict) for part in body.values()):
        raise InvalidInput("input and output must be JSON objects")
    return body


def check(spec: samples.TaskSpec, body: Mapping[str, Any]) -> None:
    """Raises InvalidInput when `spec` can't be trained on `body`."""
    try:
        samples.render(spec, body)
    except ValueError as error:
        raise InvalidInput(str(error)) from error


class LabelStage:
    """labels → examples."""

    name = "label"
    topic = LABELS.name

    def __init__(self, context: Context) -> None:
        self._context = context

    async def handle(self, record: Record) -> Sequence[Outgoing]:
        label = self._context.codec.decode(Label, record.value)
        spec = task_spec(self._context.project, label.adapter)
        group = group_of(label)
        given = wanted = None
        reason: str | None = "withdrawn by upstream"
        if not label.withdrawn:
            body = example_body(label.input, label.output)
            check(spec, body)
            (reason,) = await asyncio.to_thread(self._context.held_out.meets, [samples.asked(body["input"])])
            key = await self._context.keys.key(label_owner(group))
            given, wanted = seal(key, label.example_id, canonical_json(body["input"])), seal(key, label.example_id + ":output", canonical_json(body["output"]))
        example = Example(
            example_id=label.example_id, adapter=label.adapter, task=spec.task, input=given, output=wanted, group_id=group, chunk_id=None, doc_id=None,
            teacher=UPSTREAM, prompt_version="", judge_score=None, licence=label.licence,
            status=ExampleStatus.WITHDRAWN if label.withdrawn else ExampleStatus.REJECTED if reason else ExampleStatus.KEPT, reason=reason,
        )  # fmt: skip
        return [self._context.outgoing(self.name, EXAMPLES.name, label.example_id, digest(label.example_id, record.origin), example, record)]


class FormatStage:
    """examples → datasets.*"""

    name = "format"
    topic = EXAMPLES.name

    def __init__(self, context: Context) -> None:
        self._context = context

    async def handle(self, record: Record) -> Sequence[Outgoing]:
        return await self.formatted(self._context.codec.decode(Example, record.value), record)

    async def formatted(self, example: Example, record: Record) -> Sequence[Outgoing]:
        """The records of `example`, which is in `record`. Raises InvalidInput and KeyDestroyed as `handle` does."""
        if example.status is ExampleStatus.REJECTED:
            return ()
        spec = task_spec(self._context.project, example.adapter)
        body = pair = None
        if example.status is ExampleStatus.KEPT:
            if example.input is None or example.output is None:
                raise InvalidInput(f"example {example.example_id} is kept and has no text")
            key = await self._context.keys.key(example.input.key_id)
            plain = example_body(unseal(key, example.example_id, example.input), unseal(key, example.example_id + ":output", example.output))
            wrong = plain["output"].pop("rejected", None)
            check(spec, plain)
            body = seal(key, example.example_id + ":body", canonical_json(plain))
            pair = self._pair(example, spec, plain, wrong, key)
        made = [self._outgoing(example, example.adapter, example.example_id, spec.task, body, record)]
        if self._aligned(example.adapter) and (pair or not body):
            made.append(self._outgoing(example, PREFERENCES, pair_id(example.example_id), PREFERENCE, pair, record))
        return made

    def _aligned(self, adapter: str) -> bool:
        declared = self._context.project.adapters.get(adapter)
        return declared is not None and declared.dpo is not None

    def _pair(self, example: Example, spec: samples.TaskSpec, plain: Mapping[str, Any], wrong: Mapping[str, Any] | None, key: Key) -> Sealed | None:
        """A preference of the example, against the `wrong` output that came with it or one made by rule; None where no plausible one is known."""
        if wrong is None and self._aligned(example.adapter):
            wrong = plausible_wrong(spec, plain["input"], plain["output"], random.Random(example.example_id))
        if wrong is None or not self._aligned(example.adapter):
            return None
        body = {**plain, "rejected": wrong}
        try:
            samples.render_pair(spec, body)
        except ValueError:
            return None  # the wrong answer happens to read like the right one
        return seal(key, pair_id(example.example_id) + ":body", canonical_json(body))

    def _outgoing(self, example: Example, dataset: str, record_id: str, task: str, body: Sealed | None, parent: Record) -> Outgoing:
        made = DatasetRecord(
            example_id=record_id, adapter=example.adapter, task=task, split=split_of(example.group_id), group_id=example.group_id,
            body=body, teacher_usd=example.teacher_usd if dataset == example.adapter else None, status=RecordStatus.LIVE if body else RecordStatus.WITHDRAWN, is_correction=example.teacher == USER,
            licence=example.licence, judge_score=example.judge_score,
        )  # fmt: skip
        return self._context.outgoing(self.name, dataset_topic(dataset).name, record_id, digest(record_id, parent.origin), made, parent)


def pair_id(example_id: str) -> str:
    """The id of the preference that is made of an example."""
    return digest("preference", example_id)
