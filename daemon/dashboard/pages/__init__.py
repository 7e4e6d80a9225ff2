"""Data of the dashboard's pages."""
