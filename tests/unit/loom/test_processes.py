"""The wiring says what the stages say."""

from __future__ import annotations

import pytest

from loom.processes import STREAM_TOPICS, judge_of
from runtime.errors import SettingsError
from runtime.project import Adapter, Gate, Project
from runtime.settings import load_settings
from streams.chunk import ChunkStage
from streams.feedback import FeedbackStage
from streams.format import FormatStage, LabelStage
from streams.intake import Intake
from streams.synth import SynthStage


def test_stream_workers_read_the_topics_of_their_stages() -> None:
    stages = {"chunk": (Intake, ChunkStage), "synth": (SynthStage,), "format": (LabelStage, FormatStage, FeedbackStage)}
    assert {worker: [topic.name for topic in topics] for worker, topics in STREAM_TOPICS.items()} == {worker: [stage.topic for stage in found] for worker, found in stages.items()}


def test_a_gate_that_wants_a_judge_needs_an_endpoint() -> None:
    project = Project(adapters={"chat": Adapter(task="chat", result="answers", gate=Gate(judged=20))})
    with pytest.raises(SettingsError, match="the gate of chat has `judged`: set LOOM_TEACHER_URL"):
        judge_of(load_settings(), project)
    judge = judge_of(load_settings(teacher_url="http://h/v1", teacher_model="big", teacher_key="secret"), project)
    assert judge is not None
    assert (judge.url, judge.model, judge.key) == ("http://h/v1", "big", "secret")
    assert judge_of(load_settings(), Project()) is None
