"""Commands that read, verify, export or rotate a journal."""
