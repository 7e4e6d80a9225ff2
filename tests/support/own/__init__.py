"""Strategies of one's own for the tests: a small file, and a registry that forgets it again."""
