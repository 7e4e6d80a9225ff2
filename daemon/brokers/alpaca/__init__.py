"""Alpaca: market data, trading, account reports, and the panic."""
