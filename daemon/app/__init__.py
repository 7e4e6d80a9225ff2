"""The assembly of a desk: live, dry run, replay, and offline commands."""
