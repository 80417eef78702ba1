"""Which version is tried beside the live one."""

from alembic import op

revision = "0016"
down_revision = "0015"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies it."""
    op.execute("ALTER TABLE adapter_aliases ADD COLUMN candidate int, ADD COLUMN share double precision NOT NULL DEFAULT 0, ADD COLUMN shadow boolean NOT NULL DEFAULT false")
