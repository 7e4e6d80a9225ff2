"""Desks: when they decide (bars, sessions) and what they hold (options, shares)."""
