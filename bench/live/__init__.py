"""Benchmarks of the daemon at work: its load, its starts."""
