"""Why a server would not serve a version."""

from alembic import op

revision = "0015"
down_revision = "0014"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies it."""
    op.execute("ALTER TABLE adapter_versions ADD COLUMN refused text")
