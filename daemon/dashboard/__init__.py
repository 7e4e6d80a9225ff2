"""The read-only page: a process of its own that sees the journal and the model store, and can change neither."""
