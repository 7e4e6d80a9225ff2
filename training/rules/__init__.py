"""A user's own rules: played, searched, swept over their parameters, and exported. Nothing here imports torch."""
