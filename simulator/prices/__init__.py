"""The market: tapes, daily prices, option contracts and corporate actions, all deterministic."""
