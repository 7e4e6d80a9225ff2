"""The commands `rltraderd` and `rltraderctl`."""
