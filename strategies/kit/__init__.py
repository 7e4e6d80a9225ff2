"""Parts of strategies: the contract, features, sampling, manifests."""
