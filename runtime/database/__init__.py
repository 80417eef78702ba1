"""PostgreSQL: connections and migrations."""

from runtime.database.connection import DATABASE_DOWN, connect, migrate

__all__ = ["DATABASE_DOWN", "connect", "migrate"]
