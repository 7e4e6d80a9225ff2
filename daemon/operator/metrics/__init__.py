"""Prometheus metrics of a desk."""
