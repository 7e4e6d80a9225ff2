"""`rltrader runs`: the library of dry runs and trainings on a terminal, and what changes it."""
