"""A loopback Alpaca: all five services on one port of 127.0.0.1, driven by the real alpaca-py in tests.

It follows the documented protocol, simulated time and a recorded tape; it never imports the daemon's shell.
"""
