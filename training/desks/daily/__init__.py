"""Training of the daily desks: networks, markets, evaluation and baselines of both."""
