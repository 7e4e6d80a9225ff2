"""Training of `forecast_ensemble`: the market of its agents, baselines, the one graph, and how a trial runs."""
