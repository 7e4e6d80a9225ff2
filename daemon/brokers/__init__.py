"""Brokers, a folder each. Only the assembly of a desk imports them."""
