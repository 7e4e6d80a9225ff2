"""A proxy before a Redis that gives other answers than the server's, by the protocol's own bytes (RESP 2)."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader

from daemon.experience.link import Link
from tests.support.outside.redis_server import RedisServer

IMPOSSIBLE = {
    "nothing": b"$-1\r\n",
    "no list": b"*-1\r\n",
    "a number": b":7\r\n",
    "a text": b"$3\r\nabc\r\n",
    "a list of a number": b"*1\r\n:7\r\n",
    "an entry without an id": b"*1\r\n*2\r\n$1\r\na\r\n*1\r\n*2\r\n$3\r\nxyz\r\n*0\r\n",
    "other words than asked for": b"*1\r\n*2\r\n$4\r\nname\r\n:1\r\n",
}
"""Answers that no Redis gives to our requests, as they are sent."""


class Between:
    """Listens at `link`. While `instead` is set, each answer after the login is replaced by it."""

    def __init__(self, server: RedisServer, user: str) -> None:
        self._server, self._path = server, server.folder / "between.sock"
        self.link, self.instead = Link(socket=str(self._path), user=user), b""
        self.replaced = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self._path))
        self._listener.listen()
        self._open = [self._listener]
        self._threads: list[threading.Thread] = []
        self._start(self._accept)

    def close(self) -> None:
        """End all connections."""
        self._path.unlink()
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for one in self._open:
            one.close()

    def _start(self, work: Callable[..., None], *sockets: socket.socket) -> None:
        thread = threading.Thread(target=work, args=sockets, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, server = self._listener.accept()[0], socket.socket(socket.AF_UNIX)
                self._open += [client, server]
                server.connect(self._server.socket)
                self._start(self._pass_on, client, server)
                self._start(self._serve, client, server)

    def _pass_on(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError):
            while data := client.recv(65536):
                server.sendall(data)
            server.shutdown(socket.SHUT_RDWR)

    def _serve(self, client: socket.socket, server: socket.socket) -> None:
        with suppress(OSError), server.makefile("rb") as answers:
            client.sendall(_answer(answers))  # of the login
            while answer := _answer(answers):
                self.replaced += bool(self.instead)
                client.sendall(self.instead or answer)


@contextmanager
def between(server: RedisServer, user: str) -> Iterator[Between]:
    """A proxy before this server for one user."""
    proxy = Between(server, user)
    try:
        yield proxy
    finally:
        proxy.close()


def _answer(file: BufferedReader) -> bytes:
    """One answer whole, b"" at the end."""
    line = file.readline()
    size = int(line[1:]) if line[:1] in b"$*" and line else 0
    if line[:1] == b"$":
        return line + file.read(size + 2 if size >= 0 else 0)
    return line + b"".join(_answer(file) for _ in range(size)) if line[:1] == b"*" else line
