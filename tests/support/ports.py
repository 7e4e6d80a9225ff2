"""Ports for servers whose port has to be known before they listen."""

from __future__ import annotations

import random
import socket
from contextlib import closing

LOWEST, BEYOND = 12_000, 32_000
"""Below those that Linux gives away by itself, to every connection and every server that asks for any: what is free a
moment before its server takes it stays free."""


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens, drawn at random among twenty thousand."""
    while True:
        port = random.SystemRandom().randrange(LOWEST, BEYOND)  # a test's own seed is another process's, too
        with closing(socket.socket()) as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
