"""`rltrader-notify`: addresses, messages, their rate, and the command."""
