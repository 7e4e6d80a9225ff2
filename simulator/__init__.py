"""A loopback Alpaca: all five services on one port of 127.0.0.1, over a recorded or made-up market.

It follows the documented protocol on simulated time. It imports nothing of the daemon but option pricing and
virtual time.
"""
