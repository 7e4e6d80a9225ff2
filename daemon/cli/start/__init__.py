"""Ways to start `rltraderd`: run a live desk, run a replay, check either."""
