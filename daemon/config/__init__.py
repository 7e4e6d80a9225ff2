"""The configuration: tables, sources, checks, and the limits in force."""
