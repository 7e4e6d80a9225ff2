"""Experience: each decision's outcome, read from the journal and published to a Redis stream for the trainer."""
