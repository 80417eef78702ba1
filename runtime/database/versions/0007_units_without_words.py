"""A unit whose words were lost with a database, but not its examples."""

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies it."""
    op.execute("ALTER TABLE teacher_units ALTER COLUMN nonce DROP NOT NULL, ALTER COLUMN ciphertext DROP NOT NULL")
