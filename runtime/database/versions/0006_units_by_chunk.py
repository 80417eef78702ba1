"""A teacher's units by chunk, whatever was asked for: what they made is withdrawn with it."""

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

STATEMENTS = (
    "DROP TABLE teacher_units",  # a cache: what was asked before is asked again when its chunk comes again
    """CREATE TABLE teacher_units (
        unit_id text PRIMARY KEY, chunk_id text NOT NULL, adapter text NOT NULL, task text NOT NULL, version text NOT NULL, teacher text NOT NULL, item_count int NOT NULL,
        key_owner text NOT NULL, nonce bytea NOT NULL, ciphertext bytea NOT NULL, usd double precision NOT NULL)""",
    "CREATE INDEX teacher_units_chunk ON teacher_units (chunk_id)",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
