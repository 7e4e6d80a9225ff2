"""Training of `online_dqn`: its bars, its market, the cold start, evaluation and baselines."""
