"""What the registry says should serve. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field

from schemas.events import AdapterAlias, AdapterEvent, AdapterEventKind, AdapterVersion, BaseEpoch

NOBODY = 0
"""The live version of a retired adapter."""


@dataclass(slots=True)
class Wanted:
    """The base epoch, what each adapter's name stands for on it, the versions that were made known, by adapter and number, and those of them that may not serve."""

    epoch: BaseEpoch | None = None
    aliases: dict[str, AdapterAlias] = field(default_factory=dict)
    known: dict[tuple[str, int], AdapterVersion] = field(default_factory=dict)
    tainted: set[tuple[str, int]] = field(default_factory=set)
    _before: dict[str, list[int]] = field(default_factory=dict)

    def apply(self, event: AdapterEvent) -> None:
        """Takes in the registry's next record."""
        if event.version is not None and event.kind in (AdapterEventKind.VERSION, AdapterEventKind.TAINT):
            self.known[event.adapter, event.version.version] = event.version
        if event.version is not None and event.kind is AdapterEventKind.TAINT:
            self.tainted.add((event.adapter, event.version.version))
        if event.alias is not None:
            self._note_before(event.adapter, event.alias.live_version)
            self.aliases[event.adapter] = event.alias
        if event.epoch is not None:
            self._before.clear()
            self.epoch, self.aliases = event.epoch, {adapter: AdapterAlias(live_version=number) for adapter, number in event.epoch.live.items()}

    def before(self, adapter: str) -> list[int]:
        """The versions that were live before the one that is, on this epoch, the last one first; none of them tainted."""
        return [number for number in reversed(self._before.get(adapter, ())) if (adapter, number) not in self.tainted]

    def _note_before(self, adapter: str, number: int) -> None:
        """Version `number` is live from now on."""
        before, live = self._before.setdefault(adapter, []), self.aliases.get(adapter, AdapterAlias(live_version=NOBODY)).live_version
        if number in before:
            del before[before.index(number) :]
        elif live not in (NOBODY, number):
            before.append(live)
