"""Paper brokers: simulated executions for dry runs and replays, pure like the core."""
