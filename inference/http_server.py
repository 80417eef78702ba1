"""An HTTP server inside a worker."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import uvicorn


class WorkerServer(uvicorn.Server):
    """Leaves signals to the worker."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
