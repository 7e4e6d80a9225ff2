"""The journal on disk: its rows and their hash chain, writer, readers, rotation into several files."""
