"""Alpaca's REST: request queues with rate limits, clock check, quotes of the moment."""
