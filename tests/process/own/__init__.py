"""Whole processes of a strategy of one's own."""
