"""Keys, the state of the streams, and the projections."""

from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

STATEMENTS = (
    # the one table that topics can't rebuild
    "CREATE TABLE keys (owner text PRIMARY KEY, secret bytea, destroyed_at timestamptz)",
    "CREATE TABLE document_revisions (doc_id text PRIMARY KEY, revision bigint NOT NULL, content_hash text, origin text NOT NULL)",
    "CREATE TABLE chunk_claims (content_hash text PRIMARY KEY, chunk_id text NOT NULL)",
    # added_by and withdrawn_by name the record that caused it, so that reading it again emits the same
    "CREATE TABLE document_chunks (doc_id text, chunk_id text, ordinal int NOT NULL, content_hash text NOT NULL, added_by text NOT NULL, withdrawn_by text, PRIMARY KEY (doc_id, chunk_id))",
    "CREATE TABLE teacher_units (unit_id text PRIMARY KEY, key_owner text NOT NULL, item_count int NOT NULL, nonce bytea NOT NULL, ciphertext bytea NOT NULL)",
    "CREATE TABLE results (result_id text PRIMARY KEY, request_id text NOT NULL, topic text NOT NULL, adapter text, version int, status text NOT NULL, output text, intent_index int NOT NULL, timings_ms jsonb NOT NULL, recorded_at timestamptz NOT NULL)",
    "CREATE INDEX results_request ON results (request_id)",
    "CREATE TABLE completions (request_id text PRIMARY KEY, status text NOT NULL, error text, recorded_at timestamptz NOT NULL)",
    "CREATE TABLE runs (run_id text PRIMARY KEY, adapter text NOT NULL, version int, status text NOT NULL, step int, steps int, loss double precision, metrics jsonb NOT NULL, reason text, record_offset bigint NOT NULL, recorded_at timestamptz NOT NULL)",
    "CREATE TABLE adapter_versions (adapter text, version int, engine_name text NOT NULL, base_epoch int NOT NULL, artifact_uri text NOT NULL, run_id text NOT NULL, metrics jsonb NOT NULL, verdict text NOT NULL, recorded_at timestamptz NOT NULL, PRIMARY KEY (adapter, version))",
    "CREATE TABLE adapter_aliases (adapter text PRIMARY KEY, live_version int NOT NULL, sequence bigint NOT NULL)",
    "CREATE TABLE dead_letters (letter_id text PRIMARY KEY, topic text NOT NULL, partition int NOT NULL, record_offset bigint NOT NULL, stage text NOT NULL, error_type text NOT NULL, message text NOT NULL, recorded_at timestamptz NOT NULL)",
    "CREATE TABLE projection_offsets (topic text, partition int, next_offset bigint NOT NULL, PRIMARY KEY (topic, partition))",
)


def upgrade() -> None:
    for statement in STATEMENTS:
        op.execute(statement)
