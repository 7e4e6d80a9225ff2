"""What the machine gives: clock, calendar, files, locks, keys, the service manager."""
