"""One live desk: its checks before the start, its run, its session's jobs, how time passes in it."""
