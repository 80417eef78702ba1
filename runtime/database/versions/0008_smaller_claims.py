"""Claims of questions in half the bytes, and a teacher's words compressed before they are sealed."""

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

STATEMENTS = (
    "ALTER TABLE question_claims ALTER COLUMN input_hash TYPE bytea USING decode(left(input_hash, 32), 'hex'), ALTER COLUMN example_id TYPE bytea USING decode(example_id, 'hex')",
    "UPDATE teacher_units SET nonce = NULL, ciphertext = NULL",  # a cache: what was asked before is asked again when its chunk comes again
)


def upgrade() -> None:
    """Applies it."""
    for statement in STATEMENTS:
        op.execute(statement)
