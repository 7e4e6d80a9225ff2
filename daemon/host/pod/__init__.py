"""`rltrader-pod`: what systemd does for the daemon on a host, done in a container that holds a Kubernetes Lease.

It imports nothing of the daemon: it has to live where the daemon does not start.
"""
