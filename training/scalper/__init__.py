"""`option_scalper` in training: its data, market of options, networks, evaluation and baselines."""
