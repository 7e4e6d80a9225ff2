"""Recorded option quotes: one schema in Parquet, its reader, its writer and its checks."""
