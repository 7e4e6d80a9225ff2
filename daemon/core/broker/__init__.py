"""What a broker says and what the desk makes of it: orders, fills, reports, ledger, the book."""
