"""Demonstration of learning while trading: a complete desk on a synthetic market, without an account."""
