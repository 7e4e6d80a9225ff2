"""Servers and users around a desk: a real Mosquitto, a real Redis and its stream, slow readers, another user."""
