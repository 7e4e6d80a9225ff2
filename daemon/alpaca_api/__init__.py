"""The broker's side of Alpaca's protocols, used by the gateway and the simulator."""
