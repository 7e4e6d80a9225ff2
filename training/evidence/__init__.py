"""Statistics of a study: intervals, overfitting, significance, criteria, verdict."""
