"""Near duplicates: claims with signatures, verdicts with their twins, and the revision that a document was last cut from."""

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

STATEMENTS = (
    "DROP TABLE chunk_claims",
    "CREATE TABLE chunk_claims (chunk_id text PRIMARY KEY, content_hash text NOT NULL, signature bytea NOT NULL, bands bigint[] NOT NULL)",
    "CREATE INDEX chunk_claims_hash ON chunk_claims (content_hash)",
    "CREATE INDEX chunk_claims_bands ON chunk_claims USING gin (bands) WITH (fastupdate = off)",
    # the record that brought the verdict on a chunk, which is said again when that record is read again
    "ALTER TABLE document_chunks RENAME added_by TO judged_by",
    "ALTER TABLE document_chunks ADD COLUMN twin_id text, ADD COLUMN similarity double precision",
    "CREATE INDEX document_chunks_twin ON document_chunks (twin_id) WHERE twin_id IS NOT NULL AND withdrawn_by IS NULL",
    "CREATE INDEX document_chunks_withdrawn ON document_chunks (withdrawn_by) WHERE withdrawn_by IS NOT NULL",
    "CREATE TABLE cut_revisions (doc_id text PRIMARY KEY, revision bigint NOT NULL, record bytea NOT NULL)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
