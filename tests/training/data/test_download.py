"""`train-and-export download` against the loopback Alpaca, driven through the real alpaca-py: the file and the command.

Expected values: the bars that the server was given, hand calculation, and the exchange's calendar as printed.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import msgspec
import pyarrow as pa
import pyarrow.parquet
import pytest
from alpaca.common.rest import RESTClient

from daemon.host.time.calendar import SessionCalendar, midnight_ns
from daemon.tapes.minutes import scan
from simulator.server import RunningServer
from tests.support.desks.desk_run import rltraderd, summary_of
from tests.support.training.recorded_alpaca import (
    DATES,
    KEYS,
    MINUTE_NS,
    SECOND_NS,
    SESSIONS,
    SPAN,
    Passing,
    alpaca,
    bars_in,
    fetch,
    minutes,
    request_to,
    session_of,
    spy,
)
from training.cli import download as command
from training.cli.download import download
from training.data.bars_parts import DownloadSummary
from training.data.bars_request import TIMEFRAMES, DownloadError


@pytest.fixture(scope="module")
def shared() -> Iterator[RunningServer]:
    """A server with SPY on all sessions, for tests that leave no fault behind."""
    with alpaca(spy()) as server:
        yield server


# --- the file ---------------------------------------------------------------------------------------------------------


def test_the_file_has_the_bars_of_the_server_and_says_where_they_are_from(
    shared: RunningServer, tmp_path: Path
) -> None:
    out = tmp_path / "bars.parquet"
    summary = fetch(shared, out)
    assert bars_in(out) == [bar for bar in spy() if bar.start_ns < session_of("2024-08-01").open_ns]
    assert summary.bars == {"SPY": 5 * 390 + 210}
    assert (summary.sessions, summary.missing_sessions, summary.missing_bars) == (6, {}, {})
    assert [path.name for path in tmp_path.iterdir()] == ["bars.parquet"]
    metadata = pa.parquet.read_schema(out).metadata
    assert (metadata[b"feed"], metadata[b"adjustment"], metadata[b"timeframe"]) == (b"sip", b"raw", b"1Min")
    record = json.loads(metadata[b"download"])
    assert msgspec.convert(record["summary"], DownloadSummary) == summary
    assert record["request"]["symbols"] == ["SPY"]


def test_a_half_day_ends_at_one_and_what_traded_after_it_is_left_out_unless_asked_for(tmp_path: Path) -> None:
    bars = list(minutes("SPY", session_of("2024-07-03"), 54_500, 330, 180))
    with alpaca(bars) as server:
        summary = fetch(server, tmp_path / "regular.parquet", start="2024-07-03", end="2024-07-03")
        whole = fetch(server, tmp_path / "all.parquet", start="2024-07-03", end="2024-07-03", include_extended=True)
    close_ns = 1_720_026_000 * SECOND_NS  # 2024-07-03 17:00 UTC, 13:00 New York
    rows = bars_in(tmp_path / "regular.parquet")
    assert (len(rows), rows[-1].start_ns) == (210, close_ns - MINUTE_NS)
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
    shared: RunningServer, tmp_path: Path, timeframe: str, count: int
) -> None:
    out = tmp_path / "bars.parquet"
    summary = fetch(shared, out, timeframe=timeframe, end="2024-06-28")
    bars = bars_in(out)
    assert (len(bars), summary.missing_bars, summary.missing_sessions) == (2 * count, {}, {})
    first, step_ns = bars[0], TIMEFRAMES[timeframe] * SECOND_NS
    minutes_of_it = 390 if timeframe == "1Day" else min(step_ns // MINUTE_NS, 390)
    session = SESSIONS[0]
    assert first.start_ns == (midnight_ns(session.date) if timeframe == "1Day" else session.open_ns)
    assert (first.open, first.low, first.volume) == (545.0, 544.95, sum(range(1000, 1000 + minutes_of_it)))
    assert first.close == pytest.approx(545.0 + minutes_of_it * 0.01)
    assert scan(out, ("SPY",), TIMEFRAMES[timeframe]).rows == 2 * count


def test_an_hour_begins_with_the_session_and_the_last_one_is_half_as_long(
    shared: RunningServer, tmp_path: Path
) -> None:
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


# --- what is missing --------------------------------------------------------------------------------------------------


def test_a_missing_session_and_missing_minutes_are_named(tmp_path: Path) -> None:
    holes = {SESSIONS[1].open_ns + minute * MINUTE_NS for minute in (3, 4, 389)}
    with alpaca([bar for bar in spy(skip=["2024-07-02"]) if bar.start_ns not in holes]) as server:
        summary = fetch(server, tmp_path / "bars.parquet")
        text = command.summary_text(request_to(server, tmp_path / "bars.parquet"), summary)
    assert summary.missing_sessions == {"SPY": ("2024-07-02",)}
    assert summary.missing_bars == {"SPY": 3}
    assert summary.missing_examples["SPY"][:2] == ("2024-06-28T13:33:00Z", "2024-06-28T13:34:00Z")
    assert "SPY: 1 missing session: 2024-07-02" in text
    assert "SPY: 3 missing bars: 2024-06-28T13:33:00Z" in text


def test_a_session_that_still_runs_is_left_out_and_named(shared: RunningServer, tmp_path: Path) -> None:
    messages: list[str] = []
    running = Passing(session_of("2024-07-02").open_ns + 60 * MINUTE_NS)
    summary = download(request_to(shared, tmp_path / "bars.parquet"), KEYS, messages.append, running.clock)
    assert summary.left_out == ("2024-07-02", "2024-07-03", "2024-07-05")
    assert summary.last_session == "2024-07-01"
    assert any("2024-07-02" in line for line in messages)
    with pytest.raises(DownloadError, match=r"left out 2024-07-02.*can be had now"):
        fetch(shared, tmp_path / "bars.parquet")


def test_a_symbol_without_any_bar_is_an_error(shared: RunningServer, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="no bar of SPZ"):
        fetch(shared, tmp_path / "bars.parquet", symbols=("SPY", "SPZ"), end="2024-06-27")
    assert not (tmp_path / "bars.parquet").exists()


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.fixture
def run_command(
    shared: RunningServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
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


def test_the_command_says_what_it_wrote(run_command: Callable[..., tuple[int, str, str]]) -> None:
    code, out, err = run_command("--adjustment", "all", "--feed", "iex")
    assert code == 0
    assert "b.parquet: 780 bars of SPY; 2 sessions in the calendar from 2024-06-27 to 2024-06-28" in out
    assert "1Min, feed iex, adjustment all, regular hours" in out
    assert "warning: --adjustment all: strikes of options are on raw prices" in err
    assert "one exchange's trades alone" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
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
    run_command: Callable[..., tuple[int, str, str]], arguments: tuple[str, ...], message: str
) -> None:
    code, out, err = run_command(*arguments)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message in err


def test_missing_keys_and_an_address_in_the_clear_are_refused(
    run_command: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for address in ("http://data.example.com", "https://[::1", "https://data.example.com:70000"):
        monkeypatch.setenv("RLTRADER_ALPACA__DATA_URL", address)
        assert "RLTRADER_ALPACA__DATA_URL is no address for data: expected https://" in run_command()[2]
    monkeypatch.delenv("RLTRADER_ALPACA__DATA_URL")
    monkeypatch.setenv("APCA_API_SECRET_KEY", f"{KEYS.secret} {KEYS.secret}")
    assert "APCA_API_KEY_ID or APCA_API_SECRET_KEY is no key" in run_command()[2]
    monkeypatch.setenv("APCA_API_SECRET_KEY", "")
    assert run_command()[::2] == (
        2,
        (
            "download: no keys: set APCA_API_KEY_ID and APCA_API_SECRET_KEY in the environment, "
            "or take in a file of your own: rltrader data add SYMBOL --from-file FILE\n"
        ),
    )


def test_ctrl_c_says_how_to_go_on(
    run_command: Callable[..., tuple[int, str, str]], shared: RunningServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RESTClient, "get", interrupted)
    assert run_command()[::2] == (130, "download: interrupted; what is finished is kept: give the same command again\n")
