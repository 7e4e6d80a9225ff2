"""Alpaca's market side: bar and quote streams, history, option chains."""
