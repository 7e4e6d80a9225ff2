"""Alpaca's protocols from the broker's side: what the gateway serves to desks and the simulator to everyone."""
