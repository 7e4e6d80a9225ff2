"""`rltrader init`: make a desk in an empty folder, ready to inspect, check and start."""
