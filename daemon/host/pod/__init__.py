"""`rltrader-pod`: systemd's tasks for the daemon, done in a container that holds a Kubernetes Lease.

It imports nothing of the daemon: it must run where the daemon does not start.
"""
