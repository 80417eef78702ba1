"""Consumer groups that had offsets and have none: reading from the start again would do everything twice, so it is an error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import ConsumerGroupTopicPartitions, KafkaException
from confluent_kafka.admin import AdminClient

from runtime.errors import SettingsError, Transient

FILE = "groups.json"
TIMEOUT_SECONDS = 20


def groups_with_offsets(broker: str, groups: Sequence[str]) -> set[str]:
    """Those of `groups` that have committed somewhere. Raises Transient when the broker can't say."""
    admin = AdminClient({"bootstrap.servers": broker})
    found = set()
    try:
        there = {group.group_id for group in admin.list_consumer_groups().result(TIMEOUT_SECONDS).valid}
    except KafkaException as error:
        raise Transient(f"the consumer groups of {broker} can't be listed: {error.args[0].str()}") from error
    for group in there & set(groups):
        try:
            ((_, asked),) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(group)]).items()
            offsets = asked.result(TIMEOUT_SECONDS).topic_partitions
        except KafkaException as error:
            raise Transient(f"the offsets of {group} can't be read: {error.args[0].str()}") from error
        if any(partition.offset >= 0 for partition in offsets or ()):
            found.add(group)
    return found


def known_groups(folder: Path) -> set[str]:
    """The groups that are known to have had offsets."""
    path = folder / FILE
    return set(json.loads(path.read_text())) if path.exists() else set()


async def check_groups(broker: str, groups: Sequence[str], folder: Path) -> None:
    """Notes which groups have offsets.

    Raises:
        SettingsError: a group that had offsets has none.
    """
    now, known = await asyncio.to_thread(groups_with_offsets, broker, groups), known_groups(folder)
    if lost := sorted((known & set(groups)) - now):
        raise SettingsError(
            f"the broker {broker} has lost the offsets of {', '.join(lost)}: everything would be read and answered again. Restore its data, or, if that is what you want, delete {folder / FILE}"
        )
    (folder / FILE).write_text(json.dumps(sorted(known | now)))
