"""Services of the machine: clock, calendar, files, locks, keys, the service manager."""
