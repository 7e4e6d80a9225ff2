"""The daily desks in training: networks, markets, evaluation and baselines of both."""
