"""Runs: settings, tasks, trials, the run folder, the ledger, promotion."""
