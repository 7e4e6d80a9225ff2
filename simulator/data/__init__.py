"""Market data: streams, history, contracts and snapshots."""
