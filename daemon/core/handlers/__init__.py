"""Event handlers that all desks share: sessions, answers, commands, the clock."""
