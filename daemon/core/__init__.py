"""The pure middle: state and event in, state and effects out. No clock, no files, no network."""
