"""Images, compose file, k3s manifests and the units of a desk that learns."""
