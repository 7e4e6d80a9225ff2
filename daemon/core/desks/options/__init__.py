"""A desk that holds one option position and decides at each bar."""
