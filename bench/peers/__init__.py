"""Benchmarks against other projects: each peer has an environment of its own, installed on request."""
