"""Random faults while records flow: workers killed, paused, joined and ended, brokers and other servers gone for a while."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support.cluster import Cluster

SEED = int(os.environ.get("LOOM_TEST_SEED", "11"))
Fault = Callable[[random.Random], None]


class Fleet:
    """Workers of one kind; those that ended by themselves or were killed are started again, as a supervisor would."""

    def __init__(self, command: Callable[[int], Sequence[str]], folder: Path, environment: Callable[[int], Mapping[str, str]] = lambda _: os.environ, name: str = "worker") -> None:
        self._command, self._environment, self._folder, self._name, self._started = command, environment, folder, name, 0
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self) -> None:
        self._started += 1
        log = (self._folder / f"{self._name}-{self._started}.log").open("wb")
        self.workers.append(subprocess.Popen(self._command(self._started), env=dict(self._environment(self._started)), stdout=subprocess.DEVNULL, stderr=log))

    def heal(self) -> None:
        """Starts as many as have ended."""
        ended = [worker for worker in self.workers if worker.poll() is not None]
        self.workers = [worker for worker in self.workers if worker not in ended]
        for _ in range(len(ended)):
            self.start()

    def end(self) -> None:
        for worker in self.workers:
            worker.send_signal(signal.SIGCONT)
            worker.kill()
            worker.wait()


def worker_faults(fleets: Sequence[Fleet], fewest: int, most: int) -> dict[str, Fault]:
    """What can befall workers, of which each fleet has so many at least and at most."""

    def kill(rng: random.Random) -> None:
        rng.choice(rng.choice(fleets).workers).kill()

    def pause(rng: random.Random) -> None:
        worker = rng.choice(rng.choice(fleets).workers)
        worker.send_signal(signal.SIGSTOP)
        time.sleep(rng.choice((0.5, 9.0)))
        worker.send_signal(signal.SIGCONT)

    def join(rng: random.Random) -> None:
        fleet = rng.choice(fleets)
        if len(fleet.workers) < most:
            fleet.start()

    def leave(rng: random.Random) -> None:
        fleet = rng.choice(fleets)
        if len(fleet.workers) > fewest:
            worker = rng.choice(fleet.workers)
            worker.terminate()
            worker.wait(60)
            fleet.workers.remove(worker)

    return {"kill": kill, "pause": pause, "join": join, "leave": leave}


def broker_fault(cluster: Cluster) -> Fault:
    """A broker is killed, and comes back."""

    def broker(rng: random.Random) -> None:
        node = rng.choice(cluster.nodes)
        node.kill()
        time.sleep(rng.uniform(0.5, 5))
        node.start()

    return broker


def storm(faults: Mapping[str, Fault], often: Sequence[str], fleets: Sequence[Fleet], flow: Callable[[threading.Event], None], seconds: float, calm: tuple[float, float]) -> list[str]:
    """Faults of the names in `often`, one behind the other with `calm` seconds between, as `flow` sends; what was done."""
    rng, done, failed, stop = random.Random(SEED), [], [], threading.Event()

    def flowing() -> None:
        try:
            flow(stop)
        except BaseException as error:
            failed.append(error)

    thread = threading.Thread(target=flowing)
    thread.start()
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        name = rng.choice(often)
        faults[name](rng)
        done.append(name)
        time.sleep(rng.uniform(*calm))
        for fleet in fleets:
            fleet.heal()
    thread.join(120)
    stop.set()
    assert not failed, failed
    return done
