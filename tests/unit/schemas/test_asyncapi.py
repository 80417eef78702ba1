"""The published contract."""

from __future__ import annotations

from schemas.asyncapi import asyncapi
from schemas.topics import catalogue


def test_every_topic_is_a_channel_and_every_reference_holds() -> None:
    topics = catalogue(["tool"], ["tool-calls"])
    document = asyncapi(topics.values(), "acme.")
    assert {c["address"] for c in document["channels"].values()} == {f"acme.{name}" for name in topics}
    for channel in document["channels"].values():
        for message in channel["messages"].values():
            assert message["$ref"].rsplit("/", 1)[1] in document["components"]["messages"]
    for operation in document["operations"].values():
        assert operation["channel"]["$ref"].rsplit("/", 1)[1] in document["channels"]
    assert {"write.documents", "write.requests", "read.results_tool-calls", "write.adapter-commands"} <= document["operations"].keys()
    assert "read_committed" in document["info"]["description"]


def test_for_ever_is_minus_one_and_days_are_milliseconds() -> None:
    channels = asyncapi(catalogue([], []).values())["channels"]
    kept = {name: c["bindings"]["kafka"]["topicConfiguration"]["retention.ms"] for name, c in channels.items()}
    assert (kept["chunks"], kept["requests"]) == (-1, 7 * 86_400_000)
