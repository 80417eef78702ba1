"""What started a run."""

from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies it."""
    op.execute("ALTER TABLE runs ADD COLUMN trigger text NOT NULL DEFAULT 'examples'")
