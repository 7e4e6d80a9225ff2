"""What strategies are made of: the contract, features, sampling, manifests."""
