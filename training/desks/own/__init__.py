"""How a strategy of one's own is trained: everything but its rewards, networks and environments."""
