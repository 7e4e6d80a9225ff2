"""Studies over many cells: searches of coefficients, sweeps of desk rules, ablations of settings; one runner."""
