"""Which example asked a question first."""

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

STATEMENTS = (
    "CREATE TABLE question_claims (input_hash text PRIMARY KEY, example_id text NOT NULL, doc_id text NOT NULL, chunk_id text NOT NULL)",
    "CREATE INDEX question_claims_example ON question_claims (example_id)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
