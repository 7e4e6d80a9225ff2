"""What events do that mean the same at every desk: sessions, answers, commands, the clock."""
