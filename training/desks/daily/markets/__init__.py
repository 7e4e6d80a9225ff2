"""The tensor markets of the daily strategies."""
