"""What stands around a deployment: its manifests read as data, an API server, a real Redis."""
