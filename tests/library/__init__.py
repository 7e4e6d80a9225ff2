"""The library of runs: what is found, what is read of it, and how runs compare."""
