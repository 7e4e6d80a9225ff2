"""Connect to Redis: a unix socket, TLS with the server's name checked, or plain on this host's loopback address.

The library never repeats a request: the caller decides what a lost answer means.
"""

from __future__ import annotations

import argparse
import ssl
from dataclasses import dataclass
from functools import partial
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from daemon.host.credential import credential

__all__ = ("Link", "RedisError", "ResponseError", "add_arguments", "link_of", "password", "text_of")

ANSWER_S = 5.0  # timeout of each request; a frozen server is taken for an absent one after this
LOOPBACK = frozenset(("127.0.0.1", "::1", "localhost"))
CREDENTIAL = "REDIS_PASSWORD"
_IN_PIPELINE = " of pipeline caused error: "  # the library's text for a failed request of a pipeline
GROUP = "trainer"  # the consumer group; what it has acknowledged is in its checkpoint


@dataclass(frozen=True, slots=True)
class Link:
    """Address of Redis and our user. `socket` "": by host and port. `user` "": the default user."""

    socket: str = ""
    host: str = ""
    port: int = 6379
    tls: bool = False
    ca_file: str = ""
    user: str = ""

    def __str__(self) -> str:
        return self.socket or f"{self.host}:{self.port}"

    def client(self, secret: str, answer_s: float = ANSWER_S, answer_bytes: int = 0) -> Any:
        """Return a client; it connects with its first request, and waits `answer_s` for each answer.

        An answer of more than `answer_bytes` ends its connection; 0 for any size.
        """
        client = self._client(secret, answer_s)
        if answer_bytes:
            client.connection_pool.connection_kwargs["parser_class"] = partial(_BoundedParser, answer_bytes)
        return client

    def _client(self, secret: str, answer_s: float) -> Any:
        options: dict[str, Any] = {
            "username": self.user or None,
            "password": secret or None,
            "socket_timeout": answer_s,
            "socket_connect_timeout": answer_s,
            "retry": Retry(NoBackoff(), 0),
            "protocol": 2,
            "driver_info": None,
        }
        if self.socket:
            return redis.Redis(unix_socket_path=self.socket, **options)
        if self.tls:
            options |= {
                "ssl": True,
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": True,
                "ssl_ca_certs": self.ca_file or None,
                "ssl_min_version": ssl.TLSVersion.TLSv1_2,
            }
        return redis.Redis(host=self.host, port=self.port, **options)


class _BoundedParser(DefaultParser):  # type: ignore[misc]
    """Closes the connection at a larger answer: the library would buffer any announced size."""

    def __init__(self, most: int, socket_read_size: int) -> None:
        super().__init__(socket_read_size)
        self._most, self._left = most, most

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        self._left = self._most
        return super().read_response(*args, **kwargs)

    def read_from_socket(self, *args: Any, **kwargs: Any) -> Any:
        self._left -= self.socket_read_size  # the most that one read of the socket returns
        if self._left < 0:
            raise RedisConnectionError(f"an answer has more than {self._most} bytes: something else wrote there")
        return super().read_from_socket(*args, **kwargs)


def link_of(address: str, user: str = "", ca_file: str = "") -> Link:
    """Return the link of an address. Raises ValueError that names it and the cure."""
    parts = urlsplit(address)
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return Link(socket=parts.path, user=user)
    try:
        host, port = parts.hostname or "", parts.port or 6379
    except ValueError:
        host, port = "", 0
    plain = parts.scheme == "redis"
    if not host or parts.username or parts.password or parts.path.strip("/") or not (plain or parts.scheme == "rediss"):
        raise ValueError(f"{address}: expected unix:///run/….sock, rediss://HOST:PORT, or redis://127.0.0.1:PORT")
    if plain and host not in LOOPBACK:
        raise ValueError(f"{address}: without TLS the password crosses the network: use rediss://{host}:{port}")
    return Link(host=host, port=port, tls=not plain, ca_file=ca_file, user=user)


def text_of(error: Exception) -> str:
    """Return an error's text without the request, which may have many bytes."""
    return str(error).rpartition(_IN_PIPELINE)[2]


def password() -> str:
    """Return Redis' password, "" where unset. Raises CredentialProblem."""
    return credential(CREDENTIAL)[0]


def add_arguments(parser: argparse.ArgumentParser, user: str) -> None:
    """Add the arguments for `Link`; `user` is the process's own in the shipped ACL file."""
    parser.add_argument(
        "--redis", required=True, metavar="ADDRESS", help="unix:///PATH, rediss://HOST:PORT, or redis://127.0.0.1:PORT"
    )
    parser.add_argument("--redis-user", default=user, metavar="NAME", help="its ACL user (%(default)s)")
    parser.add_argument(
        "--redis-ca-file", default="", metavar="FILE", help="the authority of its certificate; else the system's"
    )
