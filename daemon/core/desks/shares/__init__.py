"""A desk of shares: baskets, their orders, corporate actions."""
