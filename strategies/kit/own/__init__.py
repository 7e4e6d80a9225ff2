"""Strategies of one's own: how the file or the package that a user names is imported."""
