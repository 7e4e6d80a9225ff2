"""Models of a policy: store, pointers, signatures, trial, runtime, promotion, drift."""
