"""The wiring says what the stages say."""

from __future__ import annotations

from loom.processes import STREAM_TOPICS
from streams.chunk import ChunkStage
from streams.feedback import FeedbackStage
from streams.format import FormatStage, LabelStage
from streams.intake import Intake
from streams.synth import SynthStage


def test_stream_workers_read_the_topics_of_their_stages() -> None:
    stages = {"chunk": (Intake, ChunkStage), "synth": (SynthStage,), "format": (LabelStage, FormatStage, FeedbackStage)}
    assert {worker: [topic.name for topic in topics] for worker, topics in STREAM_TOPICS.items()} == {worker: [stage.topic for stage in found] for worker, found in stages.items()}
