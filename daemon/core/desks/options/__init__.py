"""What a desk of one option position does: decide, order, be flat in time."""
