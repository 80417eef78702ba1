"""Fixtures: one embedded stack for all tests that need one."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
def postgres() -> Iterator[EmbeddedPostgres]:
    """A running database server, migrated."""
    from runtime.database import migrate

    # not below pytest's own folder: each start of pytest closes that to other users, and PostgreSQL runs as one under root
    folder = Path(tempfile.mkdtemp(prefix="loom-test-"))
    server = EmbeddedPostgres(folder / "postgres")
    server.start()
    migrate(server.url)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)
