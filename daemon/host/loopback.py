"""Listening sockets of all our programs: on 127.0.0.1 only, with errors that name the cure."""

from __future__ import annotations

import os
import socket

ADDRESS = "127.0.0.1"
PORT_MAX = 65535


def listen(key: str, port: int, cure: str) -> socket.socket:
    """Listen on the loopback address; port 0 takes a free one. `key` is the configuration's name for the port.

    Raises:
        OSError: the port is not available; the text names `key`, the port, the reason and the cure.
    """
    if not 0 <= port <= PORT_MAX:
        raise OSError(f"{key} {port}: expected 0 to {PORT_MAX}: {cure}")
    try:
        return socket.create_server((ADDRESS, port), backlog=128)
    except OSError as error:
        raise not_had(key, port, error, cure) from error


def refused(key: str, port: int, cure: str) -> str:
    """Return why `listen` would fail on the port now, "" where it would not."""
    try:
        listen(key, port, cure).close()
    except OSError as error:
        return str(error)
    return ""


def not_had(key: str, port: int, error: OSError, cure: str) -> OSError:
    """Return the error for an unavailable port: it names `key`, the port, the reason and the cure."""
    return OSError(f"{key} {port}: {os.strerror(error.errno or 0)}: {cure}")
