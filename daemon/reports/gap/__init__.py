"""The gap report: a desk's real orders next to what the paper broker does with the same orders, bars and quotes."""
