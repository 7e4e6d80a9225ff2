"""Models of a policy: store, pointers, signatures, trial, runtime, activation, drift."""
