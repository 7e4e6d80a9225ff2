"""A desk that holds shares and decides once a session."""
