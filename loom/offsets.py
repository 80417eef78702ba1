"""Consumer groups that had offsets and have none: reading from the start again would do everything twice, so it is an error."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import KafkaException

from runtime.backlog import TIMEOUT_SECONDS, committed_offsets
from runtime.errors import SettingsError, Transient
from runtime.kafka import admin_client

FILE = "groups.json"
AGAIN_SECONDS = 0.5


def groups_with_offsets(broker: str, groups: Sequence[str]) -> set[str]:
    """Those of `groups` that have committed somewhere. Raises Transient when the broker can't say."""
    admin = admin_client(broker)
    try:
        there = {group.group_id for group in admin.list_consumer_groups().result(TIMEOUT_SECONDS).valid}
    except KafkaException as error:
        raise Transient(f"the consumer groups of {broker} can't be listed: {error.args[0].str()}") from error
    return {group for group in there & set(groups) if committed_offsets(admin, group)}


def known_groups(folder: Path) -> set[str]:
    """The groups that are known to have had offsets."""
    path = folder / FILE
    return set(json.loads(path.read_text())) if path.exists() else set()


async def check_groups(broker: str, groups: Sequence[str], folder: Path, patience_seconds: float = 0.0) -> None:
    """Notes which groups have offsets. A broker that has just started does not list what it has not loaded yet: it is asked again for `patience_seconds`.

    Raises:
        SettingsError: a group that had offsets has none.
        Transient: the broker can't say.
    """
    known, end = known_groups(folder), time.monotonic() + patience_seconds
    while True:
        try:
            now = await asyncio.to_thread(groups_with_offsets, broker, groups)
            lost = sorted((known & set(groups)) - now)
            if not lost or time.monotonic() > end:
                break
        except Transient:
            if time.monotonic() > end:
                raise
        await asyncio.sleep(AGAIN_SECONDS)
    if lost:
        raise SettingsError(
            f"the broker {broker} has lost the offsets of {', '.join(lost)}: everything would be read and answered again. Restore its data, or, if that is what you want, delete {folder / FILE}"
        )
    (folder / FILE).write_text(json.dumps(sorted(known | now)))
