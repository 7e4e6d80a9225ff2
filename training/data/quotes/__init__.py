"""Converters of vendors' option quotes, and of stock minutes, into the project's files."""
