"""The report of a study: lines, plots, page."""
