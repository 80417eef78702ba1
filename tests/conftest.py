"""Fixtures: one embedded stack for all tests that need one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

os.environ.update(DO_NOT_TRACK="true", SCARF_NO_ANALYTICS="true", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1")

from loom.embedded.kafka import EmbeddedKafka, free_port
from loom.embedded.postgres import EmbeddedPostgres


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A running broker."""
    broker = EmbeddedKafka(tmp_path_factory.mktemp("kafka"), free_port())
    broker.start()
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedPostgres]:
    """A running database server, migrated."""
    from runtime.database import migrate

    server = EmbeddedPostgres(tmp_path_factory.mktemp("postgres") / "data")
    server.start()
    migrate(server.url)
    yield server
    server.stop()
