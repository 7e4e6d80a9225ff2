"""Training of a user's own strategy: everything except its rewards, networks and environments."""
