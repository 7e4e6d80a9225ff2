"""What a study is: folds, trials, sessions and their results."""
