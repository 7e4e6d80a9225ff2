"""Training on recorded option quotes."""
