"""How fast a run goes, how long it will take, how much memory it has."""

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies it."""
    op.execute("ALTER TABLE runs ADD COLUMN tokens_per_second double precision, ADD COLUMN seconds_left double precision, ADD COLUMN memory_bytes bigint")
