"""What `rltraderd` can do: run a live desk, run a replay, check either."""
