"""CloudEvents and W3C trace headers of an outgoing record. Source: CloudEvents Kafka binding 1.0, W3C Trace Context."""

from __future__ import annotations

from runtime.ids import digest
from runtime.kafka import Headers, Record


def headers(record_name: str, event_id: str, stage: str, parent: Record | None) -> Headers:
    """Headers for an event that `stage` made of `parent`; pure, so a replay writes the same."""
    trace = next((value.decode() for name, value in parent.headers if name == "traceparent"), None) if parent else None
    trace_id = trace.split("-")[1] if trace and trace.count("-") == 3 else digest(parent.origin if parent else event_id)
    return (
        ("ce_specversion", b"1.0"),
        ("ce_id", event_id.encode()),
        ("ce_type", f"loraloom.{record_name}".encode()),
        ("ce_source", f"/loraloom/{stage}".encode()),
        ("traceparent", f"00-{trace_id}-{digest(trace_id, event_id)[:16]}-01".encode()),
    )
