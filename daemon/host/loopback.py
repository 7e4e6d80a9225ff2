"""The one way in which our programs listen: on 127.0.0.1 alone, with an error that says how to mend it."""

from __future__ import annotations

import os
import socket

ADDRESS = "127.0.0.1"
PORT_MAX = 65535


def listen(key: str, port: int, cure: str) -> socket.socket:
    """Listen on the loopback address; port 0 takes a free one. `key` is what the user calls the port.

    Raises:
        OSError: the port cannot be had; the text names `key`, the port, the reason and the cure.
    """
    if not 0 <= port <= PORT_MAX:
        raise OSError(f"{key} {port}: expected 0 to {PORT_MAX}: {cure}")
    try:
        return socket.create_server((ADDRESS, port), backlog=128)
    except OSError as error:
        raise not_had(key, port, error, cure) from error


def refused(key: str, port: int, cure: str) -> str:
    """Return why `listen` would not have the port now, "" where it would."""
    try:
        listen(key, port, cure).close()
    except OSError as error:
        return str(error)
    return ""


def not_had(key: str, port: int, error: OSError, cure: str) -> OSError:
    """Return the error of a port that cannot be had: it names `key`, the port, the reason and the cure."""
    return OSError(f"{key} {port}: {os.strerror(error.errno or 0)}: {cure}")
