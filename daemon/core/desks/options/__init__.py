"""A desk of one option position: decide, order, be flat in time."""
