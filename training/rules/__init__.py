"""Rules of one's own: played, searched and swept over their parameters, and exported. Nothing in here imports torch."""
