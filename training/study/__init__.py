"""The data of a study: folds, trials, sessions and their results."""
