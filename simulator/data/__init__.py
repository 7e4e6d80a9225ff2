"""The market-data half: streams, history, contracts and snapshots."""
