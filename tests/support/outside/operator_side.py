"""Readers of the dashboard that read slowly."""

from __future__ import annotations

import socket


def slow_pages(port: int, count: int) -> list[socket.socket]:
    """Clients that ask for the stream and never read what comes."""
    pages = []
    for _ in range(count):
        page = socket.create_connection(("127.0.0.1", port), 5.0)
        page.sendall(f"GET /api/stream HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode())
        pages.append(page)
    return pages
