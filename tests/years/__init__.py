"""Whole desks in one process, in virtual time, from one seed."""
