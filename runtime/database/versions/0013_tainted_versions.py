"""Why a version may not serve again: it learned from what was forgotten."""

from alembic import op

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies it."""
    op.execute("ALTER TABLE adapter_versions ADD COLUMN tainted text")
