"""Who asks for more than the page, or from elsewhere, gets nothing; and nothing that is asked changes the journal."""

from __future__ import annotations

import hashlib
import json
import socket
import time
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from daemon.dashboard.pages.occlusion import Explainer, Unexplained
from daemon.dashboard.server import CONNECTIONS_MOST, STREAMS_MOST
from daemon.journal.journal import FILE
from strategies.kit.contract import Observation
from strategies.registry import strategy
from tests.support.dashboards import LIMIT_S, Played, Served


def test_every_method_but_get_is_refused(served: Served) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE"):
        for path in ("/api/now", "/", "/static/style.css", "/nothing"):
            status, headers, _ = served.ask(path, method)
            assert (status, headers["allow"]) == (405, "GET"), (method, path)


@pytest.mark.parametrize(
    "host",
    ["evil.example:{port}", "127.0.0.1", "127.0.0.1:1", "localhost", "127.0.0.1.evil.example:{port}", "0.0.0.0:{port}"],
)
def test_a_name_that_was_rebound_to_this_host_is_refused(served: Served, host: str) -> None:
    assert served.ask("/api/now", headers={"Host": host.format(port=served.port)})[0] == 400


def test_our_own_names_are_served(served: Served) -> None:
    for host in ("127.0.0.1", "localhost", "LOCALHOST", "[::1]"):
        assert served.ask("/api/now", headers={"Host": f"{host}:{served.port}"})[0] == 200


def test_another_sites_pages_are_refused(served: Served) -> None:
    for origin in ("https://evil.example", "null", f"https://127.0.0.1:{served.port}", "http://127.0.0.1:1"):
        status, headers, _ = served.ask("/api/now", headers={"Origin": origin})
        assert status == 403
        assert not [name for name in headers if name.startswith("access-control")]
    assert served.ask("/api/now", headers={"Sec-Fetch-Site": "cross-site"})[0] == 403
    assert served.ask("/api/now", headers={"Origin": f"http://127.0.0.1:{served.port}"})[0] == 200


def test_a_long_address_or_a_long_head_is_refused(served: Served) -> None:
    assert served.ask("/api/now?desk=" + "x" * 2048)[0] == 414
    assert served.ask("/" + "x" * 2049)[0] == 414
    assert served.ask("/api/now", headers={"X-Long": "x" * 20_000})[0] == 431


@pytest.mark.parametrize(
    "path",
    [
        "/static/../views.py",
        "/static/%2e%2e/views.py",
        "/static/..%2fviews.py",
        "/static/%2e%2e%2f%2e%2e%2f%2e%2e%2f%2e%2e%2fetc%2fpasswd",
        "/static//etc/passwd",
        "/static/....//views.py",
        "/static/",
        "/static/js",
        "/static/%00",
        "/journal.sqlite",
        "/../../etc/passwd",
    ],
)
def test_no_file_outside_of_the_pages_is_served(served: Served, path: str) -> None:
    status, _, body = served.ask(path)
    assert status in (400, 404)
    assert list(json.loads(body)) == ["error"]


def test_every_answer_carries_the_headers_and_no_cookie(served: Served) -> None:
    for path in ("/", "/api/now", "/static/style.css", "/nothing"):
        _, headers, _ = served.ask(path)
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert not {"set-cookie", "server", "access-control-allow-origin"} & headers.keys()


def test_it_listens_on_the_loopback_address_alone(served: Served) -> None:
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"]
    addresses = [address for address in listening if address.endswith(f":{served.port:04X}")]
    assert addresses == [f"0100007F:{served.port:04X}"]


def test_no_more_than_so_many_pages_are_told_at_once(served: Served) -> None:
    with ExitStack() as stack:
        first_lines = []
        for _ in range(STREAMS_MOST + 1):
            stream = stack.enter_context(closing(socket.create_connection(("127.0.0.1", served.port), timeout=120)))
            stream.sendall(f"GET /api/stream HTTP/1.1\r\nHost: 127.0.0.1:{served.port}\r\n\r\n".encode())
            first_lines.append(stream.recv(12))
        assert first_lines == [b"HTTP/1.1 200"] * STREAMS_MOST + [b"HTTP/1.1 503"]
        assert served.json("/api/health")["clients"] == STREAMS_MOST
    end = time.monotonic() + LIMIT_S
    while served.json("/api/health")["clients"]:  # those that went are noticed
        assert time.monotonic() < end
        time.sleep(0.02)


def test_connections_that_never_ask_keep_nobody_out(served: Served) -> None:
    with ExitStack() as stack:
        for place in range(CONNECTIONS_MOST + 40):
            silent = stack.enter_context(closing(socket.create_connection(("127.0.0.1", served.port), timeout=120)))
            silent.sendall((b"", b"GET /api/health HTT")[place % 2])
        assert len(served.json("/api/desks")) == 1
        assert len([*Path(f"/proc/{served.process.pid}/fd").iterdir()]) < CONNECTIONS_MOST + 40


def test_a_version_name_that_leaves_the_store_is_no_version() -> None:
    spec = strategy("option_scalper").spec
    explainer = Explainer(Path("onnx_models"))
    for version in ("../option_scalper", "/etc", "a/../b", "", "current"):
        with pytest.raises(Unexplained):
            explainer.explain(spec, version, Observation(bytes(1840), (20, 23)), (0.0,) * 6, "HOLD")


def test_nothing_that_is_asked_changes_the_journal(served: Served, replay: Played) -> None:
    before = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in replay.path.iterdir()}
    for path in ("/api/now", "/api/price", "/api/equity", "/api/models", "/api/risk", "/api/health", "/api/decision/5"):
        served.json(path)
    after = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in replay.path.iterdir()}
    assert after == before
    assert (replay.path / FILE).exists()
