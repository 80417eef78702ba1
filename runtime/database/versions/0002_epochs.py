"""Base epochs, and the digest of a version's weights."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

STATEMENTS = (
    "CREATE TABLE base_epochs (epoch int PRIMARY KEY, base_uri text NOT NULL, base_sha256 text NOT NULL, sequence bigint NOT NULL, recorded_at timestamptz NOT NULL)",
    "ALTER TABLE adapter_versions ADD COLUMN sha256 text NOT NULL DEFAULT ''",
    # what is projected is read again from the topics, with what was not kept before
    "TRUNCATE adapter_versions, adapter_aliases",
    "DELETE FROM projection_offsets WHERE topic LIKE '%adapters'",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
