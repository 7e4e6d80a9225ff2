"""The way to a Redis of another host: TLS, by the name and the authority of its certificate alone."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.experience.link import RedisError, link_of
from tests.support.outside.mosquitto import certificates
from tests.support.outside.redis_server import RedisServer
from tests.support.outside.stream import STREAM, redis_anywhere
from tests.support.ports import free_port

USER = "rltrader-publisher"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With `ca.crt`, and a certificate for 127.0.0.1 by it; in `other` those of another authority."""
    root = tmp_path_factory.mktemp("tls")
    (root / "other").mkdir()
    certificates(root)
    certificates(root / "other")
    return root


@pytest.fixture(scope="module")
def tls_server(folder: Path) -> Iterator[tuple[RedisServer, int]]:
    """A Redis that listens by TLS too, and its port there."""
    port = free_port()
    files = {"cert-file": "broker.crt", "key-file": "broker.key", "ca-cert-file": "ca.crt"}
    options = [word for name, file in files.items() for word in (f"--tls-{name}", str(folder / file))]
    listens = ("--bind", "127.0.0.1", "--tls-port", str(port), "--tls-auth-clients", "no")
    with redis_anywhere(*listens, *options) as server:
        yield server, port


def test_the_publisher_writes_by_tls_to_the_server_that_its_authority_names(
    folder: Path, tls_server: tuple[RedisServer, int]
) -> None:
    server, port = tls_server
    link = link_of(f"rediss://127.0.0.1:{port}", USER, str(folder / "ca.crt"))
    with contextlib.closing(link.client(server.passwords[USER])) as client:
        client.xadd(STREAM, {"a": "b"}, id="1-0")
    assert server.client().xlen(STREAM) == 1


@pytest.mark.parametrize(
    ("address", "authority", "problem"),
    [
        ("rediss://127.0.0.1", "other/ca.crt", "certificate verify failed"),
        ("rediss://127.0.0.1", "", "certificate verify failed"),
        ("rediss://localhost", "ca.crt", "certificate is not valid for 'localhost'"),
    ],
)
def test_another_server_or_another_name_gets_no_password(
    address: str, authority: str, problem: str, folder: Path, tls_server: tuple[RedisServer, int]
) -> None:
    server, port = tls_server
    link = link_of(f"{address}:{port}", USER, str(folder / authority) if authority else "")
    with (
        contextlib.closing(link.client(server.passwords[USER])) as client,
        pytest.raises(RedisError, match=problem) as raised,
    ):
        client.ping()
    assert server.passwords[USER] not in str(raised.value)
