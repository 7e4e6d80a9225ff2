"""Learning from experience as it comes: the stream's consumer, rewards, and the loop that learns each entry once."""
