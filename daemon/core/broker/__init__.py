"""Broker news and its effect on the desk: orders, fills, reports, ledger, the book."""
