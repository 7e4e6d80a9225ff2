"""How each kind of desk is trained: data, market, networks, baselines."""
