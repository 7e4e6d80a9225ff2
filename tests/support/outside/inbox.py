"""A loopback HTTP server that takes messages as Apprise's json:// sends them."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(slots=True)
class Inbox:
    """What came; `status` is what the next ones are answered with."""

    port: int = 0
    status: int = 200
    leads_to: str = ""  # of a redirect
    ends: threading.Event | None = None  # an answer comes a byte at a time until it is set
    messages: list[dict[str, Any]] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Its address for Apprise, with a secret in it."""
        return f"json://user:s3cret@127.0.0.1:{self.port}/box"

    @property
    def titles(self) -> list[str]:
        """Of the messages, in the order in which they came."""
        return [message["title"] for message in self.messages]


@contextmanager
def inbox() -> Iterator[Inbox]:
    """Serve for the time of a `with`."""
    mailbox = Inbox()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            if mailbox.status < 300:
                mailbox.messages.append(json.loads(body))
            self.send_response(mailbox.status)
            if mailbox.leads_to:
                self.send_header("Location", mailbox.leads_to)
            if mailbox.ends is None:
                self.end_headers()
                return
            self.send_header("Content-Length", str(1 << 20))
            self.end_headers()
            with contextlib.suppress(OSError):  # who asked has gone
                while not mailbox.ends.wait(0.2):
                    self.wfile.write(b" ")

        def do_GET(self) -> None:
            self.send_response(200)  # a page, as of a proxy that wants a password
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    mailbox.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield mailbox
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
