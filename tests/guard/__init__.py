"""`rltrader-guard`: its watch in virtual time, its paths, its command; and the desk's side of it."""
