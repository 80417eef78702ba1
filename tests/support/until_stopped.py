"""How workers of the tests run."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable


async def until_stopped(start: Callable[[], Awaitable[object]], stop: Callable[[], Awaitable[object]]) -> None:
    """Starts a worker, says `up` on standard output, and stops it on SIGTERM, which is heeded from then on."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    print("up", flush=True)
    await start()
    await stopped.wait()
    await stop()
