"""Benchmarks: each prints one JSON object, with a reference measured in the same run beside every figure."""
