"""A strategy as a user would add one, for the tests: its file, and how it is trained."""
