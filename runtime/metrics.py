"""Metrics of a worker, as Prometheus scrapes them at `LOOM_METRICS_PORT`, those of inference at `/metrics` of its HTTP side too: all names, units and labels. No text is in them.

Source: Prometheus, "Metric and label naming".
"""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram, start_http_server

from runtime.errors import SettingsError

SECONDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300)

RECORDS = Histogram("loom_record_seconds", "From a record's first attempt to what is written for it, waits for failing dependencies included.", ("stage", "outcome"), buckets=SECONDS)
"""`outcome`: made, parked (it is in the dead letters)."""
DEPENDENCY_FAILURES = Counter("loom_dependency_failures", "Attempts that a failing broker, database, store or teacher ended; each is made again.", ("stage", "error"))
TRANSACTIONS = Histogram("loom_transaction_seconds", "A transaction, from its begin to its commit.", ("topic",), buckets=SECONDS)
CHUNKS = Counter("loom_chunks", "Live chunks that examples were made of.")
EXAMPLES = Counter("loom_examples", "Examples, by what became of each.", ("adapter", "teacher", "outcome"))
"""`outcome`: kept, or the reason for which it is not."""
UNITS = Counter("loom_teacher_units", "Units of a teacher's work.", ("teacher", "kind", "source"))
"""`source`: asked, or known from before."""
TOKENS = Counter("loom_teacher_tokens", "Tokens of prompts and replies.", ("teacher", "kind"))
"""`kind`: input, output."""
COST = Counter("loom_teacher_cost_usd", "US dollars at the declared prices: over `loom_chunks_total` a chunk's, over `loom_examples_total` an example's.", ("teacher", "kind"))

CORRECTIONS = Histogram("loom_correction_seconds", "From the first of the corrections that a version learned to when it went live.", ("adapter",), buckets=(10, 30, 60, 120, 300, 600, 1800, 3600, 14400, 86400))

ROUTES = Histogram("loom_route_seconds", "From a message to its intents.", ("status",), buckets=SECONDS)
"""`status`: classified, ambiguous, unknown, unavailable."""
ANSWERS = Histogram("loom_answer_seconds", "An adapter's answer to one intent, the wait for its version included.", ("adapter", "status"), buckets=SECONDS)
"""`status`: as results have it."""
ANSWER_TOKENS = Counter("loom_answer_tokens", "Tokens that adapters answered.", ("adapter",))
COMPLETED = Counter("loom_requests_completed", "Requests that had their last word.", ("status",))
PAUSED = Gauge("loom_requests_paused", "Partitions of requests that are not read on, since more waits than may.")
FALLBACKS = Counter("loom_fallbacks", "Answers that another one than the adapter's version gave in its place.", ("adapter", "by"))
"""`by`: previous, base; none where they could not either."""
SHADOWED = Counter("loom_shadows", "Messages that candidates were to answer behind the live version.", ("outcome",))
"""`outcome`: written, dropped (too many in work), failed."""
RESIDENT = Gauge("loom_adapter_resident", "1 for each version that the engine has loaded.", ("engine_name",))
PINNED = Gauge("loom_adapter_pinned", "1 for each version that stays in the engine's memory and batches whoever else is asked.", ("engine_name",))
READ_AGAIN = Counter("loom_adapter_read_again", "Adapters that had made room for others in the engine's memory and were read again as the router chose them.")
LEASES = Gauge("loom_adapter_leases", "Answers in flight, by the version that gives them; of the base alone under `base`.", ("engine_name",))
LOADS = Histogram("loom_adapter_load_seconds", "From a version's record to its admission or refusal: fetched, checked, loaded, asked.", ("outcome",), buckets=SECONDS)
"""`outcome`: admitted, refused."""
ENGINE_STARTS = Counter("loom_engine_starts", "Engines started: the first one, one for each base epoch, one after each that died.")


def serve_metrics(port: int, host: str) -> None:
    """Answers Prometheus from a thread of its own.

    Raises:
        SettingsError: the port is taken.
    """
    try:
        start_http_server(port, host)
    except OSError as error:
        raise SettingsError(f"LOOM_METRICS_PORT: {host}:{port} can't be listened on: {error.strerror}") from error
