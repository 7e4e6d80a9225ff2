"""The networks of the daily strategies."""
