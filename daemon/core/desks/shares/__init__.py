"""What a desk of shares does: baskets, their orders, corporate actions."""
