"""What differs from desk to desk: when it decides (bars, sessions) and what it holds (options, shares)."""
