"""The event loop around the core: engine, journal, recovery, replay, verification."""
