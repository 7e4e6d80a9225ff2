"""The read-only dashboard: a separate process that reads the journal and the model store, and changes neither."""
