"""Where requests and results stand on their topics."""

from alembic import op

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None

STATEMENTS = (
    "CREATE TABLE record_places (record_id text PRIMARY KEY, request_id text NOT NULL, topic text NOT NULL, partition int NOT NULL, record_offset bigint NOT NULL, written_at timestamptz NOT NULL)",
    "CREATE INDEX record_places_request ON record_places (request_id)",
    "CREATE INDEX record_places_age ON record_places (written_at)",
)


def upgrade() -> None:
    """Applies it."""
    for statement in STATEMENTS:
        op.execute(statement)
