"""The command `train-and-export`."""
