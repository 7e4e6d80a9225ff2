"""Download of bars and their checks."""
