"""Which records of a partition are done, where work ends out of order. Pure.

The committed offset is the lowest that may still be in work; the finished ones beyond it ride along as bits in the
offset's metadata, and a new owner skips these. Source: Confluent's parallel consumer, "offset encoding".
"""

from __future__ import annotations

import base64
import binascii
from collections import OrderedDict
from collections.abc import Iterable

SPAN = 8192
"""Offsets from the lowest in work to the highest that may begin; their bits fill 1.4 kB of the 4 kB that brokers take by default."""
MARK = "done:"
END = "\0"
"""Ends the metadata: librdkafka hands it on without its length, and confluent-kafka then reads on in whatever lies behind."""


class Window:
    """The records of one partition from its committed offset on; `metadata` is what was committed with that.

    Raises:
        ValueError: the metadata is of somebody else's.
    """

    def __init__(self, committed: int | None = None, metadata: str = "") -> None:
        self._finished = set(_offsets(committed, metadata)) if committed is not None else set()
        self._pending: OrderedDict[int, None] = OrderedDict()  # in the order in which they came, the lowest first
        self._next = committed if committed is not None else -1

    @property
    def next_offset(self) -> int:
        """The offset to commit: no record before it is still to be done."""
        return next(iter(self._pending), self._next)

    @property
    def metadata(self) -> str:
        """What to commit with it: the finished offsets from there on."""
        first = self.next_offset
        if not self._finished:
            return ""
        bits = bytearray((max(self._finished) - first) // 8 + 1)
        for offset in self._finished:
            bits[(offset - first) // 8] |= 1 << (offset - first) % 8
        return MARK + base64.b64encode(bits).decode() + END

    def fits(self, offset: int) -> bool:
        """Whether the record at `offset` may begin before others end."""
        return not self._pending or offset - self.next_offset < SPAN

    def begin(self, offset: int) -> bool:
        """Notes that a record came; False where it is done already, or in work. Records come in the order of their offsets."""
        fresh = offset >= self._next and offset not in self._finished
        if fresh:
            self._pending[offset] = None
        self._next = max(self._next, offset + 1)
        return fresh

    def finish(self, offsets: Iterable[int]) -> None:
        """Notes that records are done."""
        for offset in offsets:
            self._pending.pop(offset, None)
            self._finished.add(offset)
        first = self.next_offset
        self._finished = {offset for offset in self._finished if offset >= first}


def _offsets(first: int, metadata: str) -> Iterable[int]:
    if not metadata:
        return
    try:
        if not metadata.startswith(MARK):
            raise ValueError
        bits = int.from_bytes(base64.b64decode(metadata[len(MARK) :].removesuffix(END), validate=True), "little")
    except (ValueError, binascii.Error):
        raise ValueError(f"{metadata[:40]!r} is no list of finished offsets") from None
    yield from (first + at for at in range(bits.bit_length()) if bits >> at & 1)
