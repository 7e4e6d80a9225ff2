"""The guard: a small program on another host that protects a desk whose host is gone."""
