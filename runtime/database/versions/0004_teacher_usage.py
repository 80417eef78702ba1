"""What teachers were asked and what it cost: by teacher, and by unit."""

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STATEMENTS = (
    "CREATE TABLE teacher_usage (teacher text PRIMARY KEY, requests bigint NOT NULL DEFAULT 0, input_tokens bigint NOT NULL DEFAULT 0, output_tokens bigint NOT NULL DEFAULT 0, usd double precision NOT NULL DEFAULT 0)",
    "ALTER TABLE teacher_usage ADD COLUMN minute bigint NOT NULL DEFAULT 0, ADD COLUMN minute_requests bigint NOT NULL DEFAULT 0, ADD COLUMN minute_tokens bigint NOT NULL DEFAULT 0",
    "ALTER TABLE teacher_units ADD COLUMN usd double precision NOT NULL DEFAULT 0",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
