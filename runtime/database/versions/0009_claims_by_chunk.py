"""Claims of questions by their chunk alone: one small index in the place of a large one, and no id of a document in each."""

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

STATEMENTS = (
    "DROP INDEX question_claims_example",
    "ALTER TABLE question_claims ALTER COLUMN chunk_id TYPE bytea USING decode(chunk_id, 'hex'), DROP COLUMN doc_id",
    "CREATE INDEX question_claims_chunk ON question_claims (chunk_id)",
    "CREATE INDEX document_chunks_chunk ON document_chunks (chunk_id)",
)


def upgrade() -> None:
    """Applies it."""
    for statement in STATEMENTS:
        op.execute(statement)
