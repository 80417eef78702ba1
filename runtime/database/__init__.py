"""PostgreSQL: a pool, and the tables by numbered migrations (alembic)."""

from runtime.database.connection import connect, migrate

__all__ = ["connect", "migrate"]
