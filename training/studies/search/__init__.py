"""Search of coefficients with Optuna, here or through Ray."""
