"""Experience: what followed each decision, read from the journal and published to a Redis stream for the trainer."""
