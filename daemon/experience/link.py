"""Connect to Redis: a unix socket, TLS with the server's name checked, or plain on this host's loopback address.

The library never repeats a request: the caller decides what a lost answer means.
"""

from __future__ import annotations

import argparse
import re
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict
from urllib.parse import urlsplit

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.client import Pipeline
from redis.connection import DefaultParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError, ResponseError
from redis.retry import Retry

from daemon.host.credential import credential

__all__ = ("ImpossibleAnswer", "Link", "RedisError", "ResponseError", "add_arguments", "link_of", "password", "text_of")

ANSWER_S = 5.0  # timeout of each request; a frozen server is taken for an absent one after this
LOOPBACK = frozenset(("127.0.0.1", "::1", "localhost"))
CREDENTIAL = "REDIS_PASSWORD"
_IN_PIPELINE = " of pipeline caused error: "  # the library's text for a failed request of a pipeline
_FAILURES: tuple[type[Exception], ...] = (Exception,)  # the library raises anything at an answer of another shape
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

        An answer of more than `answer_bytes` ends its connection; 0 for any size. So does one that no Redis gives to
        its request (`ImpossibleAnswer`).
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
            return _Client(unix_socket_path=self.socket, **options)
        if self.tls:
            options |= {
                "ssl": True,
                "ssl_cert_reqs": "required",
                "ssl_check_hostname": True,
                "ssl_ca_certs": self.ca_file or None,
                "ssl_min_version": ssl.TLSVersion.TLSv1_2,
            }
        return _Client(host=self.host, port=self.port, **options)


class ImpossibleAnswer(RedisConnectionError):  # type: ignore[misc]
    """An answer of another shape than its request's: what listens there is no Redis, or mixes answers up."""


class _StreamId(bytes):
    """An entry's id."""


_Entry = tuple[_StreamId, dict[bytes, bytes]]
_Read = list[tuple[bytes, list[_Entry]]]
_Stream = TypedDict(
    "_Stream", {"last-generated-id": _StreamId, "first-entry": _Entry | None, "last-entry": _Entry | None}
)
_Group = TypedDict("_Group", {"name": bytes, "pending": int, "last-delivered-id": _StreamId, "lag": int | None})


class _Consumer(TypedDict):
    name: bytes
    idle: int


class _Holder(TypedDict):
    name: bytes
    pending: int


class _Pending(TypedDict):
    pending: int
    min: _StreamId | None
    consumers: list[_Holder]


class _Held(TypedDict):
    message_id: _StreamId
    consumer: bytes


ANSWERS: Mapping[str, Any] = {
    "PING": bool,
    "SCAN": tuple[int, list[bytes]],
    "XACK": int,
    "XADD": _StreamId | None,
    "XAUTOCLAIM": tuple[_StreamId, list[Any], list[Any]],
    "XGROUP CREATE": bool,
    "XGROUP DELCONSUMER": int,
    "XINFO CONSUMERS": list[_Consumer],
    "XINFO GROUPS": list[_Group],
    "XINFO STREAM": _Stream,
    "XLEN": int,
    "XPENDING": _Pending,
    "XPENDING range": list[_Held],
    "XRANGE": list[_Entry],
    "XREAD": _Read,
    "XREADGROUP": _Read,
    "XREVRANGE": list[_Entry],
    "XTRIM": int,
}
"""The shape of the answer to each of our requests, as the library gives it."""


class _Client(redis.Redis):  # type: ignore[misc]
    """Checks the shape of each answer, so that nothing is learned, sent or trimmed by that to another request."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        request = f"{args[0]} range" if options.get("parse_detail") else args[0]
        with _possible(self, request):
            answer = super().execute_command(*args, **options)
            if request in ANSWERS:
                msgspec.convert(answer, ANSWERS[request], dec_hook=_stream_id)
            return answer

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Pipeline:
        return _Pipeline(self.connection_pool, self.response_callbacks, transaction, shard_hint)


class _Pipeline(Pipeline):  # type: ignore[misc]
    def execute(self, raise_on_error: bool = True) -> list[Any]:
        with _possible(self, "a pipeline"):
            answers: list[Any] = super().execute(raise_on_error=raise_on_error)
            return answers


@contextmanager
def _possible(client: Any, request: str) -> Iterator[None]:
    """Turn what the library or the check raises at an answer of another shape into ImpossibleAnswer."""
    try:
        yield
    except (RedisError, OSError):
        raise
    except _FAILURES as error:
        client.connection_pool.disconnect(inuse_connections=False)  # its later answers may lag
        raise ImpossibleAnswer(
            f"no Redis answers {request} like this ({type(error).__name__}: {error}): look what listens at this "
            "address, and connect to Redis without a proxy that repeats or changes answers"
        ) from error


def _stream_id(kind: type, value: object) -> object:
    if isinstance(value, bytes) and re.fullmatch(rb"[0-9]{1,20}-[0-9]{1,20}", value):
        return kind(value)
    raise ValueError(f"expected the id of an entry, got {str(value)[:40]}")


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
