"""`rltrader runs`: the library of dry runs and trainings at a terminal, and its changes."""
