"""The journal on disk: rows and their hash chain, writer, readers, several files after rotation."""
