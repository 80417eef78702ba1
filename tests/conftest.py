"""Fixtures: one embedded stack for all tests that need one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.update(DO_NOT_TRACK="true", SCARF_NO_ANALYTICS="true", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as make and the workers have it: trainings beside other work take several times as long without

from loom.embedded.kafka import EmbeddedKafka, free_port
from loom.embedded.postgres import EmbeddedPostgres
from tests.support.postgres import running_postgres


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A running broker."""
    broker = EmbeddedKafka(tmp_path_factory.mktemp("kafka"), free_port())
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def postgres() -> Iterator[EmbeddedPostgres]:
    """A running database server, migrated."""
    with running_postgres() as server:
        yield server
