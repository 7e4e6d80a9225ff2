"""The pure core: takes a state and an event, returns a state and effects. No clock, no files, no network."""
