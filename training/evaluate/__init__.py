"""The desk itself on recorded events: where the figures of a report come from."""
