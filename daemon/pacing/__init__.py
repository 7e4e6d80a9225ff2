"""How often and how soon again: the one back-off and the one token bucket."""
