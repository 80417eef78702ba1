"""Sends requests to a broker and waits for their results, in a process of its own.

    python -m loom.bench.asker BROKER PREFIX RATE COUNT SEED

`RATE` is requests a second, at random moments; 0 sends all at once. Prints one line of JSON: the seconds that each result took, and how long all took together.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
import time

from aiokafka import TopicPartition

from loom.bench.compare import BenchmarkFailed, arrivals
from runtime.kafka import consumer, partitions_of, producer
from schemas.codec import Codec
from schemas.events import Request

RESULTS, REQUESTS = "results.moods", "requests"
ADAPTER = "mood@base"
WORDS = "hub lamp door lock plug app scene blind meter valve is does my the not never again pair blink open late broken good awful new old red light garden house".split()
SECONDS = 300
PROMPT: dict[str, int] = {"fetch_wait_milliseconds": 10}
AT_LEISURE = {"fetch_wait_milliseconds": 50, "fetch_bytes": 1 << 20}
"""How results are read: each as it comes, which is a hundred fetches a second and a sixth of a core; or, where only the time of all counts, twenty times a second."""
CODEC = Codec()


def text_of(number: int, seed: int) -> str:
    """A message of a dozen words; no two are alike."""
    chance = random.Random(f"{seed} {number}")
    return f"{' '.join(chance.choices(WORDS, k=12))} {number}"


async def ask(broker: str, prefix: str, rate: float, count: int, seed: int) -> tuple[list[float], float]:
    """Seconds from a request's sending to its result, of each; and from the first sending to the last result."""
    places = await partitions_of(broker, [prefix + RESULTS])
    reader, writer = consumer(broker, group=None, **(PROMPT if rate else AT_LEISURE)), producer(broker, linger_milliseconds=0)
    await reader.start()
    await writer.start()
    reader.assign(places)
    await reader.seek_to_end(*places)
    await asyncio.gather(*(reader.position(place) for place in places))
    sent, took = dict[bytes, float](), list[float]()

    async def read() -> None:
        while len(took) < count:
            batches: dict[TopicPartition, list[object]] = await reader.getmany(timeout_ms=100)
            now = time.perf_counter()
            took.extend(now - sent[message.key] for batch in batches.values() for message in batch)  # type: ignore[attr-defined]

    reading, chance, began = asyncio.create_task(read()), random.Random(seed), time.perf_counter()
    async for number in arrivals(count, rate, chance):
        key = f"{seed}-{number}".encode()
        request = Request(request_id=key.decode(), conversation_id=key.decode(), text=text_of(number, seed), adapter_id=ADAPTER)
        sent[key] = time.perf_counter()
        await writer.send(prefix + REQUESTS, key=key, value=CODEC.encode(request))
    await asyncio.wait_for(reading, SECONDS)
    whole = time.perf_counter() - began
    await reader.stop()
    await writer.stop()
    return took, whole


async def asked(broker: str, prefix: str, rate: float, count: int, seed: int) -> tuple[list[float], float]:
    """What a process of its own measures. Raises BenchmarkFailed when it does not end well."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-W", "ignore", "-m", "loom.bench.asker", broker, prefix, str(rate), str(count), str(seed), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    out, err = await process.communicate()
    if process.returncode:
        raise BenchmarkFailed(f"requests were not answered: {err.decode(errors='replace')[-1500:]}")
    took, whole = json.loads(out.splitlines()[-1])
    return took, whole


if __name__ == "__main__":
    _broker, _prefix, _rate, _count, _seed = sys.argv[1:]
    print(json.dumps(asyncio.run(ask(_broker, _prefix, float(_rate), int(_count), int(_seed)))))
