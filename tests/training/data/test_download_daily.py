"""`download --timeframe 1Day` of several symbols against the loopback Alpaca: what daily tapes and training read.

Expected values by hand from the rows of `tests/support/simulator/share_days.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from daemon.core.events import BarClosed
from daemon.core.limits import Basket
from daemon.core.strategy_rules import trading_for
from daemon.host.time.calendar import SessionCalendar, midnight_ns
from daemon.tapes.days import DailyTapeSource, scan_daily
from simulator.clock import SimClock
from simulator.prices.corporate_actions import Split
from simulator.prices.day_prices import DailyPrices
from simulator.prices.market import Market
from simulator.server import RunningServer, serving
from simulator.trading.account import Account
from strategies.regime_switcher import HISTORY_BARS, SYMBOLS
from tests.support.simulator.share_days import DATES, shares
from tests.support.training.recorded_alpaca import (
    AFTER_ALL_NS,
    KEYS,
    Passing,
    bars_in,
    fetch,
    request_to,
    requests_so_far,
)
from training.cli import analyse
from training.cli import download as command
from training.cli.download import download, warnings_of
from training.data.bars_check import checked
from training.data.bars_request import Chunk, DownloadError, DownloadRequest
from training.desks.registry import kind

DAILY = {"timeframe": "1Day", "adjustment": "all", "start": DATES[0], "end": DATES[-1]}
THREE = ("BBB", "AAA", "CCC")


def _serving(market: Market) -> Iterator[RunningServer]:
    clock = SimClock.starting_now(AFTER_ALL_NS, 1e-6)
    with serving(market, clock, accounts=[Account(KEYS.key, KEYS.secret)]) as server:
        yield server


@pytest.fixture(scope="module")
def server() -> Iterator[RunningServer]:
    """AAA splits two for one, BBB pays a dollar of fifty, CCC is halted for a session and then delisted."""
    yield from _serving(shares())


def test_adjusted_days_of_several_symbols_are_what_a_daily_tape_reads(server: RunningServer, tmp_path: Path) -> None:
    out = tmp_path / "days.parquet"
    summary = fetch(server, out, symbols=THREE, **DAILY)
    rows = bars_in(out)
    assert [(bar.symbol, bar.start_ns) for bar in rows[:4]] == [
        ("BBB", midnight_ns(DATES[0])), ("AAA", midnight_ns(DATES[0])), ("CCC", midnight_ns(DATES[0])),
        ("BBB", midnight_ns(DATES[1])),
    ]  # fmt: skip
    closes = {symbol: [bar.close for bar in rows if bar.symbol == symbol] for symbol in THREE}
    assert closes["AAA"] == [51, 52, 53, 54, 55, 55]  # what closed at 102 and 104 before the split
    assert closes["BBB"] == [49] * 6  # 50 x (1 - 1 / 50) before the dividend
    assert closes["CCC"] == [10] * 4
    assert summary.missing_sessions == {"CCC": ("2024-06-06", "2024-06-10")}
    assert (summary.missing_bars, summary.outside_hours, summary.sessions) == ({}, 0, 6)
    text = command.summary_text(request_to(server, out, symbols=THREE, **DAILY), summary)
    assert "CCC: 2 missing sessions: 2024-06-06, 2024-06-10" in text
    info = scan_daily(out, ("AAA", "BBB", "CCC"))
    assert (info.interval_s, info.rows_by_symbol) == (86_400, {"AAA": 6, "BBB": 6, "CCC": 4})
    summary_text = DailyTapeSource(out, info, SessionCalendar.load(info.first_date, info.last_date), Basket())
    bars = [event.bar for event in summary_text if isinstance(event, BarClosed)]
    assert sorted(bars, key=lambda bar: (bar.start_ns, bar.symbol)) == sorted(
        rows, key=lambda bar: (bar.start_ns, bar.symbol)
    )
    assert not summary_text.counts.rejected


def test_days_go_on_where_they_broke(server: RunningServer, tmp_path: Path) -> None:
    request = request_to(server, tmp_path / "days.parquet", symbols=THREE, **DAILY)

    def interrupted(news: str) -> None:
        if news.startswith("AAA-"):
            raise KeyboardInterrupt

    since = requests_so_far(server)
    with pytest.raises(KeyboardInterrupt):
        download(request, KEYS, interrupted, Passing().clock)
    assert requests_so_far(server) - since == 2  # a year of a symbol is one chunk, and one page
    messages: list[str] = []
    summary = download(request, KEYS, messages.append, Passing().clock)
    assert requests_so_far(server) - since == 3
    assert [news.rpartition(": ")[2] for news in messages] == ["here already", "here already", "4 bars in 1 page"]
    assert summary.bars == {"BBB": 6, "AAA": 6, "CCC": 4}


def test_training_and_analysis_read_the_funds_that_were_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    sessions = [s for s in SessionCalendar.load("2023-07-03", "2024-08-15").sessions if s.date >= "2023-07-03"]
    dates = sessions[: HISTORY_BARS + 20]
    days = DailyPrices.made_up(SYMBOLS, dates, splits=[Split("QQQ", "2024-06-05", Decimal(2))])
    out = tmp_path / "funds.parquet"
    for server in _serving(Market((), "SPY", sessions=dates, days=days)):
        span = {**DAILY, "start": dates[0].date, "end": dates[-1].date}
        summary = fetch(server, out, symbols=SYMBOLS, **span)
    assert (summary.missing_sessions, set(summary.bars.values())) == ({}, {HISTORY_BARS + 20})
    data = kind("regime_switcher").load(out, trading_for("regime_switcher"))
    assert list(data.days) == [session.date for session in dates[HISTORY_BARS:]]
    arguments = [
        "warmup",
        "--strategy",
        "regime_switcher",
        "--bars",
        str(out),
        "--models-dir",
        str(tmp_path),
        "--samples",
        "2",
    ]
    assert analyse.main(arguments) == 0
    assert "272 sessions" in capsys.readouterr().err


def test_a_day_that_is_not_labelled_by_its_midnight_is_named() -> None:
    request = DownloadRequest(("SPY",), "2024-06-27", "2024-06-28", "1Day", Path("days.parquet"))
    sessions = SessionCalendar.load("2024-06-27", "2024-06-28").sessions
    chunk = Chunk("SPY", tuple(s for s in sessions if s.date in {"2024-06-27", "2024-06-28"}))
    row = {"t": "2024-06-27T04:00:00Z", "o": 1.0, "h": 1.0, "l": 1.0, "c": 1.0, "v": 1}
    assert checked(request, chunk, [[row]]).start_ns.tolist() == [midnight_ns("2024-06-27")]
    with pytest.raises(DownloadError, match="SPY: the bar of 2024-06-27T05:00:00Z: its start is not on the grid"):
        checked(request, chunk, [[row | {"t": "2024-06-27T05:00:00Z"}]])


@pytest.mark.parametrize(
    ("timeframe", "adjustment", "warns"),
    [
        ("1Day", "raw", "--adjustment raw: splits or dividends look like falls"),
        ("1Day", "dividend", "wants --adjustment all"),
        ("1Day", "all", ""),
        ("1Min", "raw", ""),
    ],
)
def test_days_that_are_not_adjusted_come_with_a_warning(timeframe: str, adjustment: str, warns: str) -> None:
    request = DownloadRequest(
        ("SPY",), "2024-06-27", "2024-06-28", timeframe, Path("days.parquet"), adjustment=adjustment
    )
    warnings = warnings_of(request)
    assert len(warnings) == bool(warns)
    assert warns in "".join(warnings)
