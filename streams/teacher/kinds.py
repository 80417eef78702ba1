"""The table of what teachers make, by the adapter's task."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from runtime.project import Adapter
from streams.teacher.asks import Ask
from streams.teacher.calls import Calls
from streams.teacher.labelled import Entities, Labels
from streams.teacher.questions import Conversations, Preferences, Questions

KINDS: Mapping[str, tuple[Ask, ...]] = {"chat": (Questions(), Conversations(), Preferences()), "tool": (Calls(),), "classify": (Labels(),), "extract": (Entities(),)}


def kinds_of(adapter: Adapter, able: Collection[str]) -> list[Ask]:
    """What a teacher that is `able` to make kinds of these names makes for `adapter`; preferences only where it is aligned."""
    wanted = KINDS[adapter.task] if adapter.teach else ()
    return [kind for kind in wanted if kind.name in able and (kind.name != Preferences.name or adapter.dpo)]
