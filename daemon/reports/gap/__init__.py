"""The gap report: a desk's real fills next to the paper broker's for the same orders, bars and quotes."""
