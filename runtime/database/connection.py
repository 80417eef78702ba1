"""Connecting and migrating."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg

from runtime.errors import SettingsError, Transient

if TYPE_CHECKING:
    from sqlalchemy import Connection

FOLDER = Path(__file__).parent
NEWEST = max(path.name.partition("_")[0] for path in (FOLDER / "versions").glob("[0-9]*.py"))
"""The newest migration: a file's name begins with its revision."""
DATABASE_DOWN = (
    asyncpg.PostgresConnectionError, asyncpg.InterfaceError, asyncpg.CannotConnectNowError, asyncpg.AdminShutdownError, asyncpg.CrashShutdownError,
    asyncpg.InternalClientError, ConnectionError,
)  # fmt: skip
"""What asyncpg raises when the server is gone, or goes: the same call may succeed later.

InternalClientError ("cannot switch to state") is what a query meets whose connection the server ended since the last one.
"""


async def connect(url: str, size: int = 4) -> asyncpg.Pool:
    """A pool of up to `size` connections. Raises Transient when the database can't be reached."""
    try:
        return await asyncpg.create_pool(url, min_size=1, max_size=size, connect=_connect)
    except (OSError, asyncpg.PostgresError) as error:
        raise Transient(f"PostgreSQL can't be reached: {error}") from error


async def _connect(*where: Any, **how: Any) -> asyncpg.Connection:
    """A connection of a pool. Raises ConnectionError for whatever says that nobody listens: of a Unix socket it is that the file is missing."""
    try:
        return await asyncpg.connect(*where, **how)
    except OSError as error:
        raise ConnectionError(f"PostgreSQL can't be reached: {error}") from error


def migrate(url: str) -> None:
    """Brings the tables to the newest migration; two at once are harmless (an advisory lock). Raises SettingsError where they are of a newer version than this one."""
    asyncio.run(_migrate(url))


async def _migrate(url: str) -> None:
    if await _is_newest(url):
        return
    from sqlalchemy.ext.asyncio import create_async_engine  # not at the top: with alembic it takes a second of a core, and most starts have nothing to migrate

    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1))
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


async def _is_newest(url: str) -> bool:
    """Whether the newest of the migrations is the one that the tables are of."""
    connection = await asyncpg.connect(url)
    try:
        return bool(await connection.fetchval("SELECT version_num FROM alembic_version") == NEWEST)
    except asyncpg.UndefinedTableError:
        return False
    finally:
        await connection.close()


def _upgrade(connection: Connection) -> None:
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(713705)")
    config = Config()
    config.set_main_option("script_location", str(FOLDER))
    config.attributes["connection"] = connection
    try:
        command.upgrade(config, "head")
    except CommandError as error:
        raise SettingsError(f"the database's tables are of another version of loraloom, a newer one most likely ({error}): use that version, or name another database or data folder") from error
