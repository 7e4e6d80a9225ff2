"""Policies: store, pointers, signatures, trial, runtime, promotion, drift."""
