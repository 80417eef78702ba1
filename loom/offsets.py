"""Consumer groups that had offsets and have none: reading from the start again would do everything twice, so it is an error."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

from runtime.backlog import committed_offsets
from runtime.errors import SettingsError
from runtime.kafka import admin_client

FILE = "groups.json"


def groups_with_offsets(broker: str, groups: Sequence[str]) -> set[str]:
    """Those of `groups` that have committed somewhere. Raises Transient when the broker can't say."""
    admin = admin_client(broker)
    return {group for group in groups if committed_offsets(admin, group)}


def known_groups(folder: Path) -> set[str]:
    """The groups that are known to have had offsets."""
    path = folder / FILE
    return set(json.loads(path.read_text())) if path.exists() else set()


async def check_groups(broker: str, groups: Sequence[str], folder: Path) -> None:
    """Notes which groups have offsets.

    Raises:
        SettingsError: a group that had offsets has none.
        Transient: the broker can't say, since it is gone or has just started and loads its groups.
    """
    now, known = await asyncio.to_thread(groups_with_offsets, broker, groups), known_groups(folder)
    if lost := sorted((known & set(groups)) - now):
        raise SettingsError(
            f"the broker {broker} has lost the offsets of {', '.join(lost)}: everything would be read and answered again. Restore its data, or, if that is what you want, delete {folder / FILE}"
        )
    (folder / FILE).write_text(json.dumps(sorted(known | now)))
