"""Benchmarks of the dashboard on a long journal."""
