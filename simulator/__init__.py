"""A loopback Alpaca: all five services on one port of 127.0.0.1, over a recorded or synthetic market.

It follows the documented protocol on simulated time. Of the daemon it shares only protocols, models of prices and fees,
and virtual time, not its decisions.
"""
