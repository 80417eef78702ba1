"""The dead letter of a record: what stood there, and why it could not be processed."""

from __future__ import annotations

from runtime.ids import digest
from runtime.kafka import MAX_MESSAGE_BYTES, Outgoing, Record
from schemas.codec import Codec
from schemas.events import DeadLetter, Header
from schemas.topics import DEAD_LETTERS


def letter_of(stage: str, record: Record, error: Exception) -> DeadLetter:
    """What `stage` says of `record`, which it gave up on because of `error`. Its id is a function of both."""
    return DeadLetter(
        letter_id=digest(stage, record.origin), topic=record.topic, partition=record.partition, offset=record.offset,
        key=record.key, value=record.value if len(record.value or b"") <= 3 * MAX_MESSAGE_BYTES else None, claim_check=None,
        headers=tuple(Header(name=name, value=value) for name, value in record.headers), stage=stage,
        error_type=type(error).__name__, message=str(error),
    )  # fmt: skip


def dead_letter(codec: Codec, prefix: str, stage: str, record: Record, error: Exception) -> Outgoing:
    """`letter_of` as it goes out."""
    return Outgoing(prefix + DEAD_LETTERS.name, record.key, codec.encode(letter_of(stage, record, error)))
