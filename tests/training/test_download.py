"""`train-and-export download` against the loopback Alpaca, driven through the real alpaca-py.

Expected values: the bars that this file hands to the server, hand calculation, and the exchange's calendar as printed.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from alpaca.common.rest import RESTClient

from daemon.shell.calendar import SessionCalendar, midnight_ns
from daemon.shell.tape import scan
from strategies.contract import Bar, Session
from tests.alpaca_server.account import Account
from tests.alpaca_server.clock import SimClock
from tests.alpaca_server.market import Market
from tests.alpaca_server.server import Rules
from tests.alpaca_server.serving import Serving, serving
from tests.shell.desk_run import environment, rltraderd, summary_of
from training import bars_check
from training import download as command
from training.alpaca_bars import Clock, Keys
from training.bars_check import checked
from training.bars_parts import DownloadSummary
from training.bars_request import TIMEFRAMES, Chunk, DownloadError, DownloadRequest
from training.download import download

REPOSITORY = Path(__file__).resolve().parents[2]
KEYS = Keys("PKPLANTED0KEY0ID", "planted-secret-0123456789")
SECOND_NS = 1_000_000_000
MINUTE_NS = 60 * SECOND_NS
DATES = ("2024-06-27", "2024-06-28", "2024-07-01", "2024-07-02", "2024-07-03", "2024-07-05", "2024-08-01")
"""The sessions on the server's tape: July 3rd is a half day, the 4th a holiday; three months, so three chunks."""
SPAN = ("2024-06-27", "2024-07-05")
AFTER_ALL_NS = 1_725_000_000 * SECOND_NS  # 2024-08-30


def session_of(date: str) -> Session:
    return SessionCalendar.load(date, date).around(date)[0]


SESSIONS = tuple(map(session_of, DATES))


def minutes(symbol: str, session: Session, cents: int, before: int = 0, after: int = 0) -> Iterator[Bar]:
    """A bar each minute, a cent higher than the one before; `before` and `after` are minutes of extended hours."""
    for minute in range(-before, (session.close_ns - session.open_ns) // MINUTE_NS + after):
        price = (cents + minute) / 100
        start_ns = session.open_ns + minute * MINUTE_NS
        yield Bar(symbol, start_ns, price, price + 0.05, price - 0.05, price + 0.01, 1000.0 + minute)


def spy(skip: Sequence[str] = (), extended: int = 0) -> list[Bar]:
    """SPY on all sessions of the tape but `skip`."""
    kept = [session for session in SESSIONS if session.date not in skip]
    return [bar for session in kept for bar in minutes("SPY", session, 54_500, extended, extended)]


class Passing:
    """A clock whose seconds pass only while somebody sleeps; it starts after the tape."""

    def __init__(self, now_ns: int = AFTER_ALL_NS) -> None:
        self.slept: list[float] = []
        self.clock = Clock(
            lambda: now_ns + int(sum(self.slept) * SECOND_NS), lambda: sum(self.slept), self.slept.append
        )


@contextmanager
def alpaca(bars: Sequence[Bar], **settings: Any) -> Iterator[Serving]:
    market = Market.from_bars(bars, sessions=SESSIONS)
    clock = SimClock.starting_now(AFTER_ALL_NS, 1e-6)
    with serving(market, clock, accounts=[Account(KEYS.key, KEYS.secret)], **settings) as server:
        yield server


@pytest.fixture(scope="module")
def shared() -> Iterator[Serving]:
    """A server with SPY on all sessions, for tests that leave no fault behind."""
    with alpaca(spy()) as server:
        yield server


def request_to(server: Serving, out: Path, **changes: Any) -> DownloadRequest:
    settled: dict[str, Any] = {"symbols": ("SPY",), "start": SPAN[0], "end": SPAN[1], "timeframe": "1Min"}
    return DownloadRequest(**{**settled, "out": out, "url": server.data_url, **changes})


def fetch(server: Serving, out: Path, **changes: Any) -> DownloadSummary:
    return download(request_to(server, out, **changes), KEYS, lambda _: None, Passing().clock)


def bars_in(path: Path) -> list[Bar]:
    table = pa.parquet.read_table(path)
    starts = table.column("timestamp").cast(pa.int64()).to_pylist()
    columns = (table.column(name).to_pylist() for name in ("open", "high", "low", "close", "volume"))
    return list(map(Bar, table.column("symbol").to_pylist(), starts, *columns))


def asked(server: Serving, since: int = 0) -> list[str]:
    """First day of each request that was answered with a page."""
    log = server.call(lambda: list(server.server.requests))[since:]
    return [parse_qs(urlsplit(r.path).query)["start"][0][:10] for r in log if r.status == 200]


def requests_so_far(server: Serving) -> int:
    return server.call(lambda: len(server.server.requests))


# --- the file -----------------------------------------------------------------------------------------------------


def test_the_file_has_the_bars_of_the_server_and_says_where_they_are_from(shared: Serving, tmp_path: Path) -> None:
    out = tmp_path / "bars.parquet"
    summary = fetch(shared, out)
    assert bars_in(out) == [bar for bar in spy() if bar.start_ns < session_of("2024-08-01").open_ns]
    assert summary.bars == {"SPY": 5 * 390 + 210}
    assert (summary.sessions, summary.missing_sessions, summary.missing_bars) == (6, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["bars.parquet"]
    metadata = pa.parquet.read_schema(out).metadata
    assert (metadata[b"feed"], metadata[b"adjustment"], metadata[b"timeframe"]) == (b"sip", b"raw", b"1Min")
    held = json.loads(metadata[b"download"])
    assert msgspec.convert(held["summary"], DownloadSummary) == summary
    assert held["request"]["symbols"] == ["SPY"]


def test_a_half_day_ends_at_one_and_what_traded_after_it_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    bars = list(minutes("SPY", session_of("2024-07-03"), 54_500, 330, 180))
    with alpaca(bars) as server:
        summary = fetch(server, tmp_path / "regular.parquet", start="2024-07-03", end="2024-07-03")
        whole = fetch(server, tmp_path / "all.parquet", start="2024-07-03", end="2024-07-03", include_extended=True)
    close_ns = 1_720_026_000 * SECOND_NS  # 2024-07-03 17:00 UTC, 13:00 New York
    kept = bars_in(tmp_path / "regular.parquet")
    assert (len(kept), kept[-1].start_ns) == (210, close_ns - MINUTE_NS)
    assert (summary.missing_bars, whole.bars) == ({}, {"SPY": 330 + 210 + 180})
    assert bars_in(tmp_path / "all.parquet") == bars


def test_a_month_of_extended_hours_comes_in_pages_and_only_its_regular_hours_are_kept(tmp_path: Path) -> None:
    july = [day for day in SessionCalendar.load("2024-07-01", "2024-07-31").sessions if day.date[:7] == "2024-07"]
    bars = [bar for session in july for bar in minutes("SPY", session, 54_500, 330, 240)]
    with alpaca(bars) as server:
        summary = fetch(server, tmp_path / "bars.parquet", start="2024-07-01", end="2024-07-31")
        pages = [parse_qs(urlsplit(r.path).query) for r in server.call(lambda: list(server.server.requests))]
    regular, around = 21 * 390 + 210, 21 * (240 + 330)  # 21 nights lie between the first open and the last close
    assert (summary.bars["SPY"], summary.outside_hours) == (regular, around)
    assert summary.pages == len(pages) == 3  # of 10,000 bars at most
    assert ["page_token" in page for page in pages] == [False, True, True]


def test_several_symbols_are_in_order_of_time_then_of_the_command(tmp_path: Path) -> None:
    bars = spy(skip=DATES[2:]) + [b for s in SESSIONS[:2] for b in minutes("QQQ", s, 48_000)]
    with alpaca(bars) as server:
        summary = fetch(server, tmp_path / "bars.parquet", symbols=("SPY", "QQQ"), end="2024-06-28")
    assert summary.bars == {"SPY": 780, "QQQ": 780}
    assert bars_in(tmp_path / "bars.parquet") == sorted(bars, key=lambda bar: bar.start_ns)
    assert scan(tmp_path / "bars.parquet", ("SPY", "QQQ"), 60).rows_by_symbol == {"QQQ": 780, "SPY": 780}


@pytest.mark.parametrize(("timeframe", "count"), [("5Min", 78), ("15Min", 26), ("1Hour", 7), ("1Day", 1)])
def test_each_timeframe_gives_bars_that_the_tape_reader_takes(
    shared: Serving, tmp_path: Path, timeframe: str, count: int
) -> None:
    out = tmp_path / "bars.parquet"
    summary = fetch(shared, out, timeframe=timeframe, end="2024-06-28")
    found = bars_in(out)
    assert (len(found), summary.missing_bars, summary.missing_sessions) == (2 * count, {}, {})
    first, step_ns = found[0], TIMEFRAMES[timeframe] * SECOND_NS
    minutes_of_it = 390 if timeframe == "1Day" else min(step_ns // MINUTE_NS, 390)
    session = SESSIONS[0]
    assert first.start_ns == (midnight_ns(session.date) if timeframe == "1Day" else session.open_ns)
    assert (first.open, first.low, first.volume) == (545.0, 544.95, sum(range(1000, 1000 + minutes_of_it)))
    assert first.close == pytest.approx(545.0 + minutes_of_it * 0.01)
    assert scan(out, ("SPY",), TIMEFRAMES[timeframe]).rows == 2 * count


def test_an_hour_begins_with_the_session_and_the_last_one_is_half_as_long(shared: Serving, tmp_path: Path) -> None:
    fetch(shared, tmp_path / "bars.parquet", timeframe="1Hour", end="2024-06-27")
    last = bars_in(tmp_path / "bars.parquet")[-1]
    session = SESSIONS[0]
    assert last.start_ns == session.open_ns + 6 * 60 * MINUTE_NS  # 15:30 New York
    assert [last.open, last.close] == pytest.approx([548.60, 548.90])
    assert last.volume == sum(range(1360, 1390))


def test_the_daemon_runs_on_the_file(tmp_path: Path) -> None:
    with alpaca(spy()) as server:
        fetch(server, tmp_path / "bars.parquet", end="2024-07-03")
    out = tmp_path / "bars.parquet"
    assert scan(out, ("SPY",), 60).dates == 5
    finished = rltraderd("--dry-run", "--bars", out, "--state-dir", tmp_path / "state", cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert summary_of(finished)["bars"] == 4 * 390 + 210


# --- what is missing ----------------------------------------------------------------------------------------------


def test_a_missing_session_and_missing_minutes_are_named(tmp_path: Path) -> None:
    gone = {SESSIONS[1].open_ns + minute * MINUTE_NS for minute in (3, 4, 389)}
    with alpaca([bar for bar in spy(skip=["2024-07-02"]) if bar.start_ns not in gone]) as server:
        summary = fetch(server, tmp_path / "bars.parquet")
        said = command.told(request_to(server, tmp_path / "bars.parquet"), summary)
    assert summary.missing_sessions == {"SPY": ("2024-07-02",)}
    assert summary.missing_bars == {"SPY": 3}
    assert summary.missing_examples["SPY"][:2] == ("2024-06-28T13:33:00Z", "2024-06-28T13:34:00Z")
    assert "SPY: 1 missing sessions: 2024-07-02" in said
    assert "SPY: 3 missing bars: 2024-06-28T13:33:00Z" in said


def test_a_session_that_still_runs_is_left_out_and_named(shared: Serving, tmp_path: Path) -> None:
    heard: list[str] = []
    running = Passing(session_of("2024-07-02").open_ns + 60 * MINUTE_NS)
    summary = download(request_to(shared, tmp_path / "bars.parquet"), KEYS, heard.append, running.clock)
    assert summary.left_out == ("2024-07-02", "2024-07-03", "2024-07-05")
    assert summary.last_session == "2024-07-01"
    assert any("2024-07-02" in line for line in heard)
    with pytest.raises(DownloadError, match=r"left out 2024-07-02.*can be had now"):
        fetch(shared, tmp_path / "bars.parquet")


def test_a_symbol_without_any_bar_is_an_error(shared: Serving, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no bar of SPZ"):
        fetch(shared, tmp_path / "bars.parquet", symbols=("SPY", "SPZ"), end="2024-06-27")
    assert not (tmp_path / "bars.parquet").exists()


# --- bad bars -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"high": 540.0}, "high is below low"),
        ({"close": 560.0}, "open or close is outside"),
        ({"open": -1.0, "low": -2.0}, "not above 0"),
        ({"start_ns": session_of("2024-06-27").open_ns + 630 * SECOND_NS}, "not on the grid"),
    ],
)
def test_a_bad_bar_is_named_and_no_file_appears(tmp_path: Path, change: dict[str, float], says: str) -> None:
    bars = spy(skip=DATES[1:])
    bars[10] = msgspec.structs.replace(bars[10], **change)
    with alpaca(bars) as server, pytest.raises(DownloadError, match=rf"SPY: the bar of 2024-06-27T13:40:.*{says}"):
        fetch(server, tmp_path / "bars.parquet", end="2024-06-27")
    assert not (tmp_path / "bars.parquet").exists()


def test_duplicates_disorder_and_nan_are_named() -> None:
    row = {"o": 1.0, "h": 1.0, "l": 1.0, "c": 1.0, "v": 1}
    starts = [bars_check._row({"t": f"2024-06-27T13:{minute}:00Z", **row}, "SPY")[0] for minute in (30, 31, 31)]
    assert starts[0] == session_of("2024-06-27").open_ns
    for order, says in ((starts, "13:31:00Z comes twice"), (starts[1::-1], "13:30:00Z comes after 2024-06-27T13:31")):
        with pytest.raises(DownloadError, match=says):
            bars_check._check_order("SPY", np.array(order))
    nan = json.loads('{"t": "2024-06-27T13:30:00Z", "o": 1, "h": 1, "l": NaN, "c": 1, "v": 1}')  # as alpaca-py reads it
    start_ns, values = bars_check._row(nan, "SPY")
    with pytest.raises(DownloadError, match=r"SPY: the bar of 2024-06-27T13:30:00Z: a value is not finite.*low=nan"):
        bars_check._check_values("SPY", np.array([start_ns]), np.array([values]).T, np.zeros(1, dtype=np.int64))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"o": "1.0"}, "is no bar"),
        ({"t": "2024-06-27T13:30:00"}, "is no bar"),  # of no zone
        ({"t": "9999-12-31T00:00:00Z"}, "is no bar"),  # int64 nanoseconds end in 2262
        ({"h": 10**400}, "is no bar"),  # a float64 ends at 1.8e308
        ({"t": "2024-06-27T13:30:00.5Z"}, "the bar of 2024-06-27T13:30:00Z: its start is not on the grid"),
    ],
)
def test_a_row_that_is_no_bar_of_the_timeframe_is_named(change: dict[str, Any], says: str) -> None:
    row = {"t": "2024-06-27T13:30:00Z", "o": 1.0, "h": 1.0, "l": 1.0, "c": 1.0, "v": 1}
    request = DownloadRequest(("SPY",), "2024-06-27", "2024-06-27", "1Min", Path("bars.parquet"))
    chunk = Chunk("SPY", (session_of("2024-06-27"),))
    assert checked(request, chunk, [[row]]).start_ns.tolist() == [session_of("2024-06-27").open_ns]
    with pytest.raises(DownloadError, match=says):
        checked(request, chunk, [[row | change]])


# --- going on -----------------------------------------------------------------------------------------------------


def test_a_refusal_in_the_middle_keeps_the_finished_chunks_and_they_are_not_asked_for_again(tmp_path: Path) -> None:
    out = tmp_path / "bars.parquet"
    with alpaca(spy()) as server:
        server.faults.add("auth_failed", after=1, where={"stream": "rest"}, status=403)
        with pytest.raises(DownloadError, match="HTTP 403: forbidden"):
            fetch(server, out, end="2024-08-01")
        assert asked(server) == ["2024-06-27"]
        assert not out.exists()
        so_far = requests_so_far(server)
        summary = fetch(server, out, end="2024-08-01")
        assert asked(server, so_far) == ["2024-07-01", "2024-08-01"]
    assert bars_in(out) == spy()
    assert summary.pages == 3


def test_a_download_that_was_killed_goes_on_with_the_next_chunk(tmp_path: Path) -> None:
    out = tmp_path / "bars.parquet"
    arguments = ["--symbols", "spy", "--start", SPAN[0], "--end", SPAN[1], "--out", str(out)]
    program = [sys.executable, "-c", "import sys; from training.download import main; sys.exit(main())", *arguments]
    with alpaca(spy()) as server:
        variables = environment() | {
            "APCA_API_KEY_ID": KEYS.key,
            "APCA_API_SECRET_KEY": KEYS.secret,
            "RLTRADER_ALPACA__DATA_URL": server.data_url,
        }
        server.faults.add("http_hang", after=1, where={"path": "/v2/stocks/bars"}, moment="before", seconds=1)
        killed = subprocess.Popen(program, env=variables, cwd=REPOSITORY, stderr=subprocess.PIPE, text=True)
        assert killed.stderr is not None
        with killed, killed.stderr as heard:
            first = heard.readline()
            killed.kill()
        assert "SPY-2024-06-27-2024-06-28: 780 bars in 1 pages" in first
        assert not out.exists()
        so_far = requests_so_far(server)
        done = subprocess.run(program, env=variables, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert asked(server, so_far) == ["2024-07-01"]
    assert "no session and no bar of regular hours is missing" in done.stdout
    assert KEYS.secret not in done.stdout + done.stderr + first
    assert len(bars_in(out)) == 5 * 390 + 210


def test_a_damaged_part_is_fetched_again(tmp_path: Path) -> None:
    out = tmp_path / "bars.parquet"
    with alpaca(spy()) as server:
        server.faults.add("auth_failed", after=2, where={"stream": "rest"})
        with pytest.raises(DownloadError, match="HTTP 401"):
            fetch(server, out, end="2024-08-01")
        part = out.with_name("bars.parquet.part") / "SPY-2024-06-27-2024-06-28.parquet"
        data = bytearray(part.read_bytes())
        data[200] ^= 0xFF
        part.write_bytes(data)
        so_far = requests_so_far(server)
        fetch(server, out, end="2024-08-01")
        assert asked(server, so_far) == ["2024-06-27", "2024-08-01"]
    assert bars_in(out) == spy()


def test_another_request_with_the_same_out_is_refused_with_what_differs(tmp_path: Path) -> None:
    out = tmp_path / "bars.parquet"
    with alpaca(spy()) as server:
        server.faults.add("auth_failed", after=1, where={"stream": "rest"})
        with pytest.raises(DownloadError, match="HTTP 401"):
            fetch(server, out)
        with pytest.raises(DownloadError, match=r"holds parts of another download.*feed was 'sip', now 'iex'"):
            fetch(server, out, feed="iex")
        done = fetch(server, out)
        so_far = requests_so_far(server)
        with pytest.raises(DownloadError, match=r"exists already.*adjustment was 'raw', now 'split'"):
            fetch(server, out, adjustment="split")
        assert fetch(server, out) == done
        assert requests_so_far(server) == so_far
    (tmp_path / "note.parquet").write_text("no bars")
    with pytest.raises(DownloadError, match="another file stands there"):
        fetch(server, tmp_path / "note.parquet")


def test_parts_with_adjusted_prices_are_of_one_day(tmp_path: Path) -> None:
    out = tmp_path / "bars.parquet"
    with alpaca(spy()) as server:
        server.faults.add("auth_failed", after=1, where={"stream": "rest"})
        with pytest.raises(DownloadError, match="HTTP 401"):
            fetch(server, out, adjustment="split")
        tomorrow = Passing(AFTER_ALL_NS + 24 * 60 * MINUTE_NS)
        with pytest.raises(DownloadError, match="as_of was '2024-08-30', now '2024-08-31'"):
            download(request_to(server, out, adjustment="split"), KEYS, lambda _: None, tomorrow.clock)


# --- trouble on the way -------------------------------------------------------------------------------------------


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

        def listen(said: str) -> None:
            if "pages" in said:
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

        clock = Clock(passing.clock.now_ns, passing.clock.monotonic_s, sleep)
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
    ("status", "body", "says"),
    [
        (200, '{"bars": {}, "next_page_token": "same"}', r"SPY: Alpaca's pages do not end \(page token 'same'\)"),
        (200, '{"bars": {"SPY": "none"}}', "SPY: Alpaca's page holds 'none': expected a list of bars"),
        (200, "[]", "8 attempts, the last: HTTP 200 without a page of bars"),
        (302, "", "8 attempts, the last: HTTP 302 without a page of bars"),
        (422, "<html>no</html>", "Alpaca refused, HTTP 422: <html>no</html>: correct what it names"),
    ],
)
def test_an_answer_that_makes_no_sense_ends_the_download(tmp_path: Path, status: int, body: str, says: str) -> None:
    with answering(status, body) as url:
        request = DownloadRequest(("SPY",), *SPAN, "1Min", tmp_path / "bars.parquet", url=url)
        with pytest.raises(DownloadError, match=says):
            download(request, KEYS, lambda _: None, Passing().clock)


def test_an_answer_that_trickles_in_ends_at_the_deadline(tmp_path: Path) -> None:
    heard: list[str] = []
    with answering(200, "x" * 1000, trickle_s=0.01) as url:
        request = DownloadRequest(("SPY",), *SPAN, "1Min", tmp_path / "bars.parquet", url=url, deadline_s=0.05)
        with pytest.raises(DownloadError, match="no answer in time"):
            download(request, KEYS, heard.append, Passing().clock)
    assert heard[0] == "no answer in time; asking again in 1 s"


def test_recent_sip_on_the_free_plan_is_explained(tmp_path: Path) -> None:
    with alpaca(spy()) as server:
        server.faults.add("insufficient_subscription", where={"stream": "rest"})
        server.jump_to(session_of("2024-07-05").close_ns)
        with pytest.raises(DownloadError, match=r"recent SIP data: the plan has SIP after 15 minutes only.*--feed iex"):
            fetch(server, tmp_path / "bars.parquet", start="2024-07-05")


def shown(server: Serving, keys: Keys, out: Path) -> str:
    """The failure of a download as a traceback with all local variables."""
    with pytest.raises(DownloadError) as caught:
        download(request_to(server, out), keys, lambda _: None, Passing().clock)
    assert caught.value.__context__ is None  # which would hold the request with its headers
    return "".join(traceback.TracebackException.from_exception(caught.value, capture_locals=True).format())


def test_the_keys_stand_in_no_exception_and_no_repr(tmp_path: Path) -> None:
    with alpaca(spy()) as server:
        refused = shown(server, Keys(KEYS.key, "wrong-secret-0123456789"), tmp_path / "bars.parquet")
        server.faults.add("http_reset", times=8)
        reset = shown(server, KEYS, tmp_path / "bars.parquet")
    assert "HTTP 401" in refused
    assert "no usable answer" in reset
    for text in (refused, reset):
        assert KEYS.key not in text
        assert "secret-0123456789" not in text
    assert repr(KEYS) == "Keys([hidden])"
    assert KEYS.hide(f"said {KEYS.key} and {KEYS.secret}") == "said [hidden] and [hidden]"


# --- the disk -----------------------------------------------------------------------------------------------------


def test_an_out_that_cannot_be_written_is_said_before_anything_is_asked(shared: Serving, tmp_path: Path) -> None:
    so_far = requests_so_far(shared)
    with pytest.raises(DownloadError, match=r"missing/bars\.parquet cannot be written \(No such file or directory\)"):
        fetch(shared, tmp_path / "missing" / "bars.parquet")
    assert requests_so_far(shared) == so_far


@pytest.mark.parametrize("file_bytes", [12_000, 35_000], ids=["no part fits", "the parts fit, the whole does not"])
def test_a_full_disk_leaves_nothing_at_out_and_the_next_attempt_goes_on(
    shared: Serving, tmp_path: Path, file_bytes: int
) -> None:
    out = tmp_path / "bars.parquet"
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, before[1]))
    try:
        with pytest.raises(DownloadError, match=r"cannot be written \(.*File too large.*make room"):
            fetch(shared, out, end="2024-08-01")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not out.exists()
    kept = {path.name for path in out.with_name("bars.parquet.part").glob("SPY-*.parquet")}
    assert len(kept) == (0 if file_bytes == 12_000 else 3)
    so_far = requests_so_far(shared)
    assert fetch(shared, out, end="2024-08-01").bars == {"SPY": 6 * 390 + 210}
    assert requests_so_far(shared) - so_far == 3 - len(kept)


# --- the command line ---------------------------------------------------------------------------------------------


@pytest.fixture
def said(
    shared: Serving, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command in an empty folder with the server's keys: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("APCA_API_KEY_ID", KEYS.key)
    monkeypatch.setenv("APCA_API_SECRET_KEY", KEYS.secret)
    monkeypatch.setenv("RLTRADER_ALPACA__DATA_URL", shared.data_url)

    def run(*more: str) -> tuple[int, str, str]:
        code = command.main(
            ["--symbols", "SPY", "--start", SPAN[0], "--end", "2024-06-28", "--out", "b.parquet", *more]
        )
        out, err = capsys.readouterr()
        assert KEYS.secret not in out + err
        assert KEYS.key not in out + err
        return code, out, err

    return run


def test_the_command_says_what_it_wrote(said: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = said("--adjustment", "all", "--feed", "iex")
    assert code == 0
    assert "b.parquet: 780 bars of SPY; 2 sessions from 2024-06-27 to 2024-06-28" in out
    assert "1Min, feed iex, adjustment all, regular hours" in out
    assert "warning: --adjustment all: strikes of options are on raw prices" in err
    assert "one exchange's trades alone" in err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--symbols", "SPY,SPY"), "--symbols: found SPY, SPY; expected stock symbols"),
        (("--symbols", "../etc"), "--symbols: found ../ETC"),
        (("--out", "bars.csv"), "--out is bars.csv: expected a name that ends in .parquet"),
        (("--timeframe", "1Day", "--include-extended"), "--include-extended goes with bars of minutes"),
        (("--calls-per-minute", "0"), "--calls-per-minute is 0"),
        (("--start", "2024-13-01"), "'2024-13-01' is not a date"),
        (("--start", "2024-07-04", "--end", "2024-07-04"), "0 sessions, none of them is over"),
    ],
)
def test_a_wrong_argument_is_one_line_and_exit_code_2(
    said: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], says: str
) -> None:
    code, out, err = said(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert says in err


def test_missing_keys_and_an_address_in_the_clear_are_refused(
    said: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in ("http://data.example.com", "https://[::1", "https://data.example.com:70000"):
        monkeypatch.setenv("RLTRADER_ALPACA__DATA_URL", address)
        assert "RLTRADER_ALPACA__DATA_URL is no address for data: expected https://" in said()[2]
    monkeypatch.delenv("RLTRADER_ALPACA__DATA_URL")
    monkeypatch.setenv("APCA_API_SECRET_KEY", f"{KEYS.secret} {KEYS.secret}")
    assert "APCA_API_KEY_ID or APCA_API_SECRET_KEY is no key" in said()[2]
    monkeypatch.setenv("APCA_API_SECRET_KEY", "")
    assert said()[::2] == (2, "download: no keys: set APCA_API_KEY_ID and APCA_API_SECRET_KEY in the environment\n")


def test_ctrl_c_says_how_to_go_on(
    said: Callable[..., tuple[int, str, str]], shared: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RESTClient, "get", interrupted)
    assert said()[::2] == (130, "download: interrupted; what is finished is kept: give the same command again\n")
