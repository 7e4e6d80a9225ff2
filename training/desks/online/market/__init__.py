"""The market that `online_dqn` learns on: recorded bars as tables, accounts in whole numbers, the environment."""
