"""A PostgreSQL for tests."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from loom.embedded.postgres import EmbeddedPostgres


@contextmanager
def running_postgres() -> Iterator[EmbeddedPostgres]:
    """A server in a folder of its own, migrated; stopped and swept at the end."""
    from runtime.database import migrate

    # not below pytest's own folder: each start of pytest closes that to other users, and PostgreSQL runs as one under root
    folder = Path(tempfile.mkdtemp(prefix="loom-test-"))
    server = EmbeddedPostgres(folder / "postgres")
    server.start()
    migrate(server.url)
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)
