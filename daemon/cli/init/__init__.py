"""`rltrader init`: from an empty folder to a desk that can be looked at, checked and started."""
