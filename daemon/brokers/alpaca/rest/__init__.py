"""Alpaca's REST: request queues with rate limits, clients, market data."""
