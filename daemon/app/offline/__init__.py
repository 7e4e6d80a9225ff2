"""Operations without a running daemon: reading a stopped desk, a command for it, the rescue."""
