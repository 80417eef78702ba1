"""What of a dataset a run takes."""

from __future__ import annotations

from dataclasses import replace

import pytest

from runtime.project import Adapter, Dpo, Recipe
from runtime.tasks.preferences import PREFERENCE
from runtime.tasks.samples import TaskSpec
from schemas.events import DatasetRecord, RecordStatus, Split
from trainers.snapshot import HELD_OUT_ROOM, Row, needed, trainable

RECORDS = [
    DatasetRecord(example_id=f"{i:05}", adapter="talk", task=task, split=split, group_id="g", body=None, status=RecordStatus.LIVE)
    for i, (task, split) in enumerate([("chat", Split.TRAIN), (PREFERENCE, Split.TRAIN), ("chat", Split.EVALUATION), (PREFERENCE, Split.EVALUATION)] * 1000)
]


@pytest.mark.parametrize(("dpo", "pairs"), [(Dpo(max_pairs=7), 7), (None, 0)])
def test_a_run_takes_the_first_of_each_kind_that_it_can_use(dpo: Dpo | None, pairs: int) -> None:
    taken = needed(Adapter(task="chat", result="chat", recipe=Recipe(max_steps=3, batch_size=4), dpo=dpo), RECORDS)
    assert [r for r in taken if r.split is Split.TRAIN and r.task == "chat"] == RECORDS[:48:4]
    assert [r for r in taken if r.task == PREFERENCE] == RECORDS[1 : 4 * pairs : 4]
    assert [r for r in taken if r.split is Split.EVALUATION] == RECORDS[2 : 4 * HELD_OUT_ROOM : 4]


def test_corrections_come_before_what_was_made_by_others() -> None:
    corrected = [replace(record, is_correction=record.example_id >= "03990") for record in RECORDS]
    taken = needed(Adapter(task="chat", result="chat", recipe=Recipe(max_steps=3, batch_size=4), dpo=Dpo(max_pairs=7)), corrected)
    assert [r.example_id for r in taken if r.task == PREFERENCE] == ["00001", "00005", "00009", "00013", "00017", "03993", "03997"]
    assert [r.example_id for r in taken] == sorted(r.example_id for r in taken)


def test_anchors_are_taken_wherever_they_stand() -> None:
    anchors = {RECORDS[-2].example_id, RECORDS[-6].example_id, RECORDS[-4].example_id}
    taken = [r.example_id for r in needed(Adapter(task="chat", result="chat"), RECORDS, anchors) if r.split is Split.EVALUATION and r.task == "chat"]
    assert taken[HELD_OUT_ROOM:] == [RECORDS[-6].example_id, RECORDS[-2].example_id], "the third is for training"


def test_what_the_project_does_not_allow_any_more_is_left_out() -> None:
    def row(label: str, wrong: str | None = None) -> Row:
        pair = {} if wrong is None else {"rejected": {"label": wrong}}
        return Row(label, "g", Split.TRAIN, {"input": {"text": "hi"}, "output": {"label": label}, **pair}, is_pair=wrong is not None)

    rows = [row("GOOD"), row("RENAMED"), row("BAD", "GOOD"), row("GOOD", "RENAMED")]
    assert trainable(TaskSpec("classify", ("GOOD", "BAD")), rows) == [rows[0], rows[2]]
