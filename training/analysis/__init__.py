"""`train-and-export analyse`: lookahead, warm-up, leaks."""
