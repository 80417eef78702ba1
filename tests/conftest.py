"""Fixtures: one embedded stack for all tests that need one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("shared", deadline=None, suppress_health_check=[HealthCheck.too_slow])  # beside other tests a core may be away for seconds: that says nothing of the code
settings.load_profile("shared")
os.environ.update(DO_NOT_TRACK="true", SCARF_NO_ANALYTICS="true", HF_HUB_OFFLINE="1", VLLM_NO_USAGE_STATS="1")
os.environ.setdefault("GOMP_SPINCOUNT", "3000")  # as make and the workers have it: trainings beside other work take several times as long without
if (side_by_side := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))) > 1:  # two trainings on two threads each take 1.4 times as long as on one each, and a fifth more of the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // side_by_side)))

from loom.embedded.kafka import EmbeddedKafka, free_port
from loom.embedded.postgres import EmbeddedPostgres
from tests.support.postgres import running_postgres

LONGEST = ("test_loop.py", "test_whole_system.py", "test_epochs.py", "test_teacher.py")
"""Files of minutes, begun first: what begins last is waited for by the other core."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, the others as they were found."""
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


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
