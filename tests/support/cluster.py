"""A Kafka cluster of three brokers, replicated and acknowledged by two at least, whose brokers can be killed and started again."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from loom.embedded.kafka import EmbeddedKafka, cluster_id, free_port

BROKERS = 3


class Node(EmbeddedKafka):
    """One of them."""

    def __init__(self, folder: Path, number: int, port: int, controllers: list[int], cluster: str) -> None:
        super().__init__(folder, port, controllers[number])
        self._number, self._controllers, self._cluster = number, controllers, cluster

    def _cluster_id(self) -> str:
        return self._cluster

    def _properties(self) -> dict[str, Any]:
        voters = ",".join(f"{number + 1}@127.0.0.1:{port}" for number, port in enumerate(self._controllers))
        replicated = {
            "default.replication.factor": BROKERS, "min.insync.replicas": 2, "offsets.topic.replication.factor": BROKERS,
            "transaction.state.log.replication.factor": BROKERS, "transaction.state.log.min.isr": 2,
            "replica.lag.time.max.ms": 5000, "broker.session.timeout.ms": 4000, "broker.heartbeat.interval.ms": 1000,
        }  # fmt: skip
        return super()._properties() | {"node.id": self._number + 1, "controller.quorum.voters": voters} | replicated


class Cluster:
    """The three."""

    def __init__(self, folder: Path) -> None:
        controllers, cluster = [free_port() for _ in range(BROKERS)], cluster_id()
        self.nodes = [Node(folder / f"broker-{number}", number, free_port(), controllers, cluster) for number in range(BROKERS)]

    @property
    def address(self) -> str:
        """For clients: any that lives answers."""
        return ",".join(node.address for node in self.nodes)

    def start(self) -> None:
        """Starts all at once, since none serves before two are there."""
        with ThreadPoolExecutor(BROKERS) as pool:
            list(pool.map(lambda node: node.start(), self.nodes))

    def stop(self) -> None:
        """Ends all: what they hold is not needed any more."""
        for node in self.nodes:
            node.kill()
