"""What Prometheus reads of a worker."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import httpx
import pytest
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from runtime.errors import InvalidInput, SettingsError, Transient
from runtime.kafka import Outgoing, Record
from runtime.metrics import serve_metrics
from runtime.stage import run_stage
from schemas.codec import Codec


class Fickle:
    """A stage that refuses empty records, and whose dependency fails once."""

    name = "fickle"
    topic = "documents"

    def __init__(self) -> None:
        self.failed = False

    async def handle(self, record: Record) -> Sequence[Outgoing]:
        if record.value is None:
            raise InvalidInput("empty")
        if not self.failed:
            self.failed = True
            raise Transient("away")
        return ()


@pytest.mark.asyncio
async def test_records_and_failures_are_counted_and_served() -> None:
    stage = Fickle()
    for value in (b"x", b"y", None):
        await run_stage(stage, Record("documents", 0, 0, b"k", value, ()), Codec(), "")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve_metrics(port, "127.0.0.1")
    samples = {
        (s.name, tuple(sorted(s.labels.items()))): s.value for family in text_string_to_metric_families(httpx.get(f"http://127.0.0.1:{port}/metrics").text) for s in family.samples
    }  # fmt: skip
    assert samples["loom_record_seconds_count", (("outcome", "made"), ("stage", "fickle"))] == 2
    assert samples["loom_record_seconds_count", (("outcome", "parked"), ("stage", "fickle"))] == 1
    assert samples["loom_dependency_failures_total", (("error", "Transient"), ("stage", "fickle"))] == 1
    assert REGISTRY.get_sample_value("process_resident_memory_bytes")
    with pytest.raises(SettingsError, match=f"LOOM_METRICS_PORT: 127.0.0.1:{port} can't be listened on"):
        serve_metrics(port, "127.0.0.1")
