"""The daemon's link to Alpaca: market streams and history in, orders out. Decides nothing about trading."""
