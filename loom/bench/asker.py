"""Sends requests to a broker and waits for their results, in a process of its own.

    python -m loom.bench.asker BROKER PREFIX RATE COUNT SEED

`RATE` is requests a second, at random moments; 0 sends all at once. Prints one line of JSON: the seconds that each result took, those that the engine had it of them, and how long all took together.
It is librdkafka's: on the cores that the measured ones use too, an aiokafka reader that is to be as prompt took 7 % of one, and 5 % in the broker.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition

from loom.bench.compare import BenchmarkFailed, due_seconds
from runtime.kafka import partitions_of
from schemas.codec import Codec, InvalidRecord
from schemas.events import Request, Result

RESULTS, REQUESTS = "results.moods", "requests"
ADAPTER = "mood@base"
WORDS = "hub lamp door lock plug app scene blind meter valve is does my the not never again pair blink open late broken good awful new old red light garden house".split()
SECONDS, LOOK_SECONDS, TRIES = 300, 0.1, 100
AT_LEISURE = {"fetch.min.bytes": 1 << 20, "fetch.wait.max.ms": 50}
"""Where only the time of all counts: twenty fetches a second, not one for each result."""
CODEC = Codec()


@dataclass(frozen=True, slots=True)
class Asked:
    """Seconds from a request's sending to its result, of each; those of them in the engine; and from the first sending to the last result."""

    took: list[float]
    in_engine: list[float]
    whole: float

    @property
    def each_second(self) -> float:
        """Requests."""
        return len(self.took) / self.whole


def text_of(number: int, seed: int) -> str:
    """A message of a dozen words; no two are alike."""
    chance = random.Random(f"{seed} {number}")
    return f"{' '.join(chance.choices(WORDS, k=12))} {number}"


def ask(broker: str, prefix: str, rate: float, count: int, seed: int) -> Asked:
    """What `count` requests took. Raises BenchmarkFailed where their results do not come."""
    reader = Consumer({"bootstrap.servers": broker, "group.id": f"{prefix}asker", "enable.auto.commit": False, "isolation.level": "read_committed", **({} if rate else AT_LEISURE)})
    writer = Producer({"bootstrap.servers": broker, "linger.ms": 0, "acks": "all", "partitioner": "murmur2_random"})
    places = [TopicPartition(place.topic, place.partition) for place in asyncio.run(partitions_of(broker, [prefix + RESULTS]))]
    reader.assign([TopicPartition(place.topic, place.partition, _end(reader, place)) for place in places])
    reader.poll(LOOK_SECONDS)  # connects
    values = [CODEC.encode(Request(request_id=_key(seed, n), conversation_id=_key(seed, n), text=text_of(n, seed), adapter_id=ADAPTER)) for n in range(count)]
    due = list(due_seconds(count, rate, random.Random(seed)))
    sent, took, results = dict[str, float](), list[float](), list[bytes]()
    began = time.perf_counter()
    while len(took) < count:
        now = time.perf_counter()
        left = began + due[len(sent)] - now if len(sent) < count else LOOK_SECONDS
        if now - began > SECONDS:
            raise BenchmarkFailed(f"{count - len(took)} of {count} requests have no result after {SECONDS} s")
        if left <= 0:
            key = _key(seed, len(sent))
            writer.produce(prefix + REQUESTS, value=values[len(sent)], key=key)
            writer.poll(0)
            sent[key] = now
            continue
        message = reader.poll(min(LOOK_SECONDS, left))
        if message is not None:
            key, value = _read(message)
            took.append(time.perf_counter() - sent[key])
            results.append(value)
    whole = time.perf_counter() - began
    writer.flush()
    reader.close()
    return Asked(took, [_in_engine(value) for value in results], whole)


def _end(reader: Consumer, place: TopicPartition) -> int:
    """The offset behind the last record."""
    for _ in range(TRIES):
        try:
            return int(reader.get_watermark_offsets(place)[1])
        except KafkaException:  # a topic that was just made has no leader yet
            time.sleep(LOOK_SECONDS)
    raise BenchmarkFailed(f"{place.topic}/{place.partition} has no leader")


def _key(seed: int, number: int) -> str:
    return f"{seed}-{number}"


def _read(message: Message) -> tuple[str, bytes]:
    """The key and the value. Raises BenchmarkFailed for the broker's errors."""
    key, value = message.key(), message.value()
    if message.error() or not isinstance(key, bytes) or not isinstance(value, bytes):
        raise BenchmarkFailed(f"results can't be read: {message.error()}")
    return key.decode(), value


def _in_engine(value: bytes) -> float:
    """Seconds that a result's engine had its request; 0 where it is no result: a relay sends the request back."""
    try:
        return CODEC.decode(Result, value).timings_ms["generate"] / 1000
    except InvalidRecord:
        return 0.0


async def asked(broker: str, prefix: str, rate: float, count: int, seed: int) -> Asked:
    """What a process of its own measures. Raises BenchmarkFailed when it does not end well."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-W", "ignore", "-m", "loom.bench.asker", broker, prefix, str(rate), str(count), str(seed), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = await process.communicate()
    if process.returncode:
        raise BenchmarkFailed(f"requests were not answered: {err.decode(errors='replace')[-1500:]}")
    return Asked(**json.loads(out.splitlines()[-1]))


if __name__ == "__main__":
    _broker, _prefix, _rate, _count, _seed = sys.argv[1:]
    print(json.dumps(asdict(ask(_broker, _prefix, float(_rate), int(_count), int(_seed)))))
