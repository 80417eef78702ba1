"""The course of a run: its loss and pace by step, for dashboards."""

from alembic import op

revision = "0014"
down_revision = "0013"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Applies it."""
    op.execute(
        "CREATE TABLE run_steps (run_id text, step int, loss double precision, tokens_per_second double precision, memory_bytes bigint, recorded_at timestamptz NOT NULL, PRIMARY KEY (run_id, step))"
    )
