"""Sinks: what receives the figures of a training while it runs, such as a logger or code of your own."""
