"""Training of `option_scalper`: data, market of options, networks, evaluation and baselines."""
