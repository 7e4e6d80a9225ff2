"""The commands that read or prove a journal: verify, rotate, events, decisions."""
