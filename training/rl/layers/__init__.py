"""What the networks of several strategies have in common: the scaling of inputs, and where weights start."""
