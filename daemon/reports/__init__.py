"""Reports from the journal: a session's page and tables, execution quality, shadow models."""
