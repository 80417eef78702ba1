"""What every process needs and no stage owns: settings, tasks, Kafka, keys, database, object store."""
