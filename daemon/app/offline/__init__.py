"""What works without a running daemon: a stopped desk, a command for it, the rescue."""
