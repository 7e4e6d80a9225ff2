"""Instruments as arithmetic: option symbols, prices and chains."""
