"""Alpaca refuses, stalls, limits and breaks off, over a real socket; the keys stand nowhere."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from simulator.server import RunningServer
from simulator.trading.venue import Rules
from tests.support.training.recorded_alpaca import (
    KEYS,
    SPAN,
    Passing,
    alpaca,
    bars_in,
    fetch,
    request_to,
    requests_so_far,
    session_of,
    spy,
)
from training.cli.download import download
from training.data.alpaca_bars import Keys, PacingClock
from training.data.bars_request import DownloadError, DownloadRequest


def test_a_storm_of_429_and_500_is_weathered_and_retry_after_is_obeyed(tmp_path: Path) -> None:
    with alpaca(spy()) as server:
        server.faults.add("http_429", retry_after_s=17)
        server.faults.add("http_429", after=1, times=2)
        server.faults.add("http_error", times=2, status=500)
        server.faults.add("http_html", after=1)
        server.faults.add("malformed_json", after=1)
        passing = Passing()
        summary = download(request_to(server, tmp_path / "bars.parquet"), KEYS, lambda _: None, passing.clock)
        assert sum(server.faults.met.values()) == 7
    assert summary.bars == {"SPY": 5 * 390 + 210}
    assert passing.slept[0] == 17.0
    assert bars_in(tmp_path / "bars.parquet")[0] == spy()[0]


def test_an_answer_that_hangs_or_breaks_off_is_asked_for_again(tmp_path: Path) -> None:
    with alpaca(spy()) as server:
        server.faults.add("http_hang", seconds=3)
        server.faults.add("http_reset")
        server.faults.add("http_empty_body")
        summary = fetch(server, tmp_path / "bars.parquet", end="2024-06-28", deadline_s=0.5)
        assert server.faults.met.total() == 3
    assert summary.bars == {"SPY": 780}


def test_it_gives_up_after_a_bounded_number_of_attempts(tmp_path: Path) -> None:
    with alpaca(spy()) as server:
        server.faults.add("http_error", times=100, status=503)
        passing = Passing()
        with pytest.raises(DownloadError, match="no usable answer in 8 attempts, the last: HTTP 503"):
            download(request_to(server, tmp_path / "bars.parquet"), KEYS, lambda _: None, passing.clock)
        assert requests_so_far(server) == 8
    assert passing.slept == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_no_minute_has_more_calls_than_allowed(tmp_path: Path) -> None:
    with alpaca(spy()) as server:
        passing = Passing()
        asked_at: list[float] = []

        def listen(message: str) -> None:
            if " page" in message:
                asked_at.append(sum(passing.slept))

        request = request_to(server, tmp_path / "bars.parquet", end="2024-08-01", calls_per_minute=2)
        download(request, KEYS, listen, passing.clock)
    assert asked_at == [0.0, 0.0, 60.0]


def test_when_the_broker_says_that_no_call_is_left_the_next_one_waits_until_its_reset(tmp_path: Path) -> None:
    with alpaca(spy(), rules=Rules(data_rate_limit=2)) as server:
        passing = Passing()

        def sleep(seconds: float) -> None:
            passing.slept.append(seconds)
            server.jump_to(passing.clock.now_ns())

        clock = PacingClock(passing.clock.now_ns, passing.clock.monotonic_s, sleep)
        download(request_to(server, tmp_path / "bars.parquet", end="2024-08-01"), KEYS, lambda _: None, clock)
        assert [r.status for r in server.call(lambda: list(server.server.requests))] == [200, 200, 200]
    assert passing.slept == [60.0]  # the clock began with a minute, which is the broker's window


@contextmanager
def answering(status: int, body: str, trickle_s: float = 0.0) -> Iterator[str]:
    """The address of a server that gives the same answer to every GET, a byte at a time where it trickles."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):  # the client may have left
                for piece in body if trickle_s else [body]:
                    self.wfile.write(piece.encode())
                    time.sleep(trickle_s)

        def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
            """Nothing is written."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("status", "body", "message"),
    [
        (200, '{"bars": {}, "next_page_token": "same"}', r"SPY: Alpaca's pages do not end \(page token 'same'\)"),
        (200, '{"bars": {"SPY": "none"}}', "SPY: Alpaca's page holds 'none': expected a list of bars"),
        (200, "[]", "8 attempts, the last: HTTP 200 without a page of bars"),
        (302, "", "8 attempts, the last: HTTP 302 without a page of bars"),
        (422, "<html>no</html>", "Alpaca refused, HTTP 422: <html>no</html>: correct what it names"),
    ],
)
def test_an_answer_that_makes_no_sense_ends_the_download(tmp_path: Path, status: int, body: str, message: str) -> None:
    with answering(status, body) as url:
        request = DownloadRequest(("SPY",), *SPAN, "1Min", tmp_path / "bars.parquet", url=url)
        with pytest.raises(DownloadError, match=message):
            download(request, KEYS, lambda _: None, Passing().clock)


def test_an_answer_that_trickles_in_ends_at_the_deadline(tmp_path: Path) -> None:
    messages: list[str] = []
    with answering(200, "x" * 1000, trickle_s=0.01) as url:
        request = DownloadRequest(("SPY",), *SPAN, "1Min", tmp_path / "bars.parquet", url=url, deadline_s=0.05)
        with pytest.raises(DownloadError, match="no answer in time"):
            download(request, KEYS, messages.append, Passing().clock)
    assert messages[0] == "no answer in time; asking again in 1 s"


def test_recent_sip_on_the_free_plan_is_explained(tmp_path: Path) -> None:
    with alpaca(spy()) as server:
        server.faults.add("insufficient_subscription", where={"stream": "rest"})
        server.jump_to(session_of("2024-07-05").close_ns)
        with pytest.raises(DownloadError, match=r"recent SIP data: the plan has SIP after 15 minutes only.*--feed iex"):
            fetch(server, tmp_path / "bars.parquet", start="2024-07-05")


def traceback_of(server: RunningServer, keys: Keys, out: Path) -> str:
    """The failure of a download as a traceback with all local variables."""
    with pytest.raises(DownloadError) as caught:
        download(request_to(server, out), keys, lambda _: None, Passing().clock)
    assert caught.value.__context__ is None  # which would hold the request with its headers
    return "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())


def test_the_keys_stand_in_no_exception_and_no_repr(tmp_path: Path) -> None:
    with alpaca(spy()) as server:
        refused = traceback_of(server, Keys(KEYS.key, "wrong-secret-0123456789"), tmp_path / "bars.parquet")
        server.faults.add("http_reset", times=8)
        reset = traceback_of(server, KEYS, tmp_path / "bars.parquet")
    assert "HTTP 401" in refused
    assert "no usable answer" in reset
    for text in (refused, reset):
        assert KEYS.key not in text
        assert "secret-0123456789" not in text
    assert repr(KEYS) == "Keys([hidden])"
    assert KEYS.hide(f"said {KEYS.key} and {KEYS.secret}") == "said [hidden] and [hidden]"
