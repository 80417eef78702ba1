"""Real services started from Python packages alone: Apache Kafka and PostgreSQL."""
