"""The published contract as AsyncAPI 3: every topic, its record, its key, who writes and who reads it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from schemas.codec import RECORDS
from schemas.contracts import contract
from schemas.topics import Topic

READ_COMMITTED = "Read with isolation.level=read_committed: outputs and source offsets are written in transactions."
OUTSIDE = ("upstream", "operator")


def asyncapi(topics: Iterable[Topic], prefix: str = "") -> dict[str, Any]:
    """The document for `topics`. Source: AsyncAPI 3.0.0, Kafka bindings 0.5.0."""
    topics = list(topics)
    records = {RECORDS[topic.record] for topic in topics}
    return {
        "asyncapi": "3.0.0",
        "info": {"title": "loraloom", "version": "0.1.0", "description": READ_COMMITTED},
        "defaultContentType": "application/vnd.apache.avro",
        "channels": {_slug(topic): _channel(topic, prefix) for topic in topics},
        "operations": {f"{verb}.{_slug(topic)}": _operation(verb, action, topic) for topic in topics for verb, action, who in (("write", "receive", topic.writers), ("read", "send", topic.readers)) if set(who) & set(OUTSIDE)},
        "components": {"messages": {record: _message(record) for record in sorted(records)}},
    }


def _slug(topic: Topic) -> str:
    return topic.name.replace(".", "_")


def _channel(topic: Topic, prefix: str) -> dict[str, Any]:
    record = RECORDS[topic.record]
    return {
        "address": prefix + topic.name,
        "description": f"Key: {topic.key}. Written by {', '.join(topic.writers)}; read by {', '.join(topic.readers)}.",
        "messages": {record: {"$ref": f"#/components/messages/{record}"}},
        "bindings": {"kafka": {"partitions": topic.partitions, "topicConfiguration": {"cleanup.policy": ["delete"], "retention.ms": topic.retention_ms}, "bindingVersion": "0.5.0"}},
    }


def _operation(verb: str, action: str, topic: Topic) -> dict[str, Any]:
    """An operation as loraloom sees it: it receives what upstreams write and sends what they read."""
    return {"action": action, "channel": {"$ref": f"#/channels/{_slug(topic)}"}, "summary": f"An outside system {verb}s {topic.name}."}


def _message(record: str) -> dict[str, Any]:
    schema = contract(record)
    return {
        "name": schema["name"],
        "title": schema["name"],
        "summary": schema["doc"],
        "payload": {"schemaFormat": "application/vnd.apache.avro+json;version=1.9.0", "schema": schema},
        "bindings": {"kafka": {"key": {"type": "string"}, "schemaIdLocation": "payload", "schemaIdPayloadEncoding": "confluent", "bindingVersion": "0.5.0"}},
    }
