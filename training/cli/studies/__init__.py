"""Commands on finished work: a sweep of desk rules, runs side by side."""
