"""Book and broker compared: the account, the differences, the verdicts."""
