"""Training of `daily_rebalancer` and `regime_switcher`: networks, markets, evaluation, baselines."""
