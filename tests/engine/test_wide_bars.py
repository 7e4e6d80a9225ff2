"""Desks of wide bars replay whole tapes, and hold nothing at any close: the recorded year, and made-up weeks."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from itertools import chain, groupby
from pathlib import Path

import msgspec
import pyarrow.parquet as pq
import pytest

from daemon.core.effects import AskPolicy
from daemon.core.events import BrokerSnapshot, Event, ModelVerified, PolicyAnswered, SessionEnded
from daemon.core.limits import Contracts, Risk, Sizing, Trading
from daemon.core.records import DecisionRow
from daemon.core.session import new_york_text
from daemon.core.state import Identity
from daemon.core.step import Step
from daemon.engine.recover import fresh_machine
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.minutes import TapeSource, scan
from strategies.kit.contract import Bar
from strategies.kit.synthetic import synthetic_sessions
from tests.support.core.desk import Pointer
from tests.support.core.share_bars import SPEC, ShareBars
from tests.support.desks.desk_run import write_tape

SECOND_NS = 1_000_000_000
LAST = {900: {"15:45:00", "12:45:00"}, 3600: {"15:30:00", "12:30:00"}}
"""The last close of a bar before the deadline, seven minutes before the close: of whole and half days."""
CALM = Sizing(stop_loss=0.99, take_profit=9.0)  # what is held is left by the clock, or by the policy
OPEN_RULES = Trading(CALM, Contracts(min_days=1), risk=Risk(daily_loss_max=1.0, drawdown_max=1.0, stale_bar_s=3600))


def options_of(interval_s: int) -> Pointer:
    class Wide(Pointer):
        spec = msgspec.structs.replace(Pointer.spec, bar_interval_s=interval_s)

    return Wide()


def shares_of(interval_s: int) -> ShareBars:
    class Wide(ShareBars):
        spec = msgspec.structs.replace(SPEC, bar_interval_s=interval_s, holds_overnight=False)

    return Wide()


def resampled(minutes: Iterable[Bar], calendar: SessionCalendar, interval_s: int) -> Iterator[str]:
    """Rows of bars of so many seconds from each session's open on."""
    opens = {session.date: session for session in calendar.sessions}
    by_day = groupby(minutes, key=lambda bar: new_york_text(bar.start_ns)[:10])
    for date, bars in by_day:
        session = opens[date]
        inside = [bar for bar in bars if session.open_ns <= bar.start_ns < session.close_ns]
        for nth, group in groupby(inside, key=lambda bar: (bar.start_ns - session.open_ns) // (interval_s * SECOND_NS)):
            part = list(group)
            start_ns = session.open_ns + nth * interval_s * SECOND_NS
            prices = part[0].open, max(b.high for b in part), min(b.low for b in part), part[-1].close
            yield ",".join(map(str, ("SPY", start_ns, *prices, sum(b.volume for b in part))))


def recorded_minutes(folder: Path) -> list[Bar]:
    path = folder / "spy_1min_2024.parquet"
    if not path.is_file():
        pytest.skip(f"needs {path.name} in the folder of real data")
    table = pq.read_table(path)
    starts = table["timestamp"].cast("int64").to_pylist()
    unit = {"ns": 1, "us": 1000, "ms": 10**6, "s": SECOND_NS}[table.schema.field("timestamp").type.unit]
    columns = [table[name].to_pylist() for name in ("open", "high", "low", "close", "volume")]
    return [Bar("SPY", start * unit, *map(float, row)) for start, *row in zip(starts, *columns, strict=True)]


def play(tape: Path, desk: str, interval_s: int) -> tuple[int, int, set[str]]:
    """Replay; returns the trades, the closes at which something was held, and the times of exits before the close."""
    strategy = options_of(interval_s) if desk == "options" else shares_of(interval_s)
    info = scan(tape, ("SPY",), interval_s)
    calendar = SessionCalendar.load(info.first_date, info.last_date)
    machine = fresh_machine(strategy, Identity("replay", "d", strategy.spec.name, "e1", "sip"), OPEN_RULES)
    holdings, exit_times = 0, set[str]()

    def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
        """Enter whatever may be entered: each position stays until a rule leaves it."""
        logits = (0.0, 0.9, 0.0, 0.0, 0.0, 0.0) if desk == "options" else (0.0, 1.0)
        return PolicyAnswered(now_ns, question.decision, logits, b"", "v1")

    def watch(event: Event, step: Step) -> None:
        nonlocal holdings
        if isinstance(event, SessionEnded):
            quotes = step.state.quotes
            bids = [quotes[symbol].bid for symbol in step.state.book.positions]
            holdings += any(bid > 0 for bid in bids)  # what nobody bids for cannot be sold
        rows = [row for row in step.rows if isinstance(row, DecisionRow) and row.action == "flat_before_close"]
        exit_times.update(new_york_text(row.time_ns)[11:] for row in rows)

    funded = BrokerSnapshot(1, Decimal(10_000), (), ())
    ready = ModelVerified(1, "v1", "d", promoted=True, feed="sip")
    end = machine.run(chain((funded, ready), TapeSource(tape, info, calendar)), answer, watch)
    return end.stats.trades, holdings, exit_times


@pytest.mark.parametrize("desk", ["options", "shares"])
@pytest.mark.parametrize("interval_s", [900, 3600])
def test_a_recorded_year_of_wide_bars_has_no_trade_over_night(
    data_dir: Path, tmp_path: Path, interval_s: int, desk: str
) -> None:
    minutes = recorded_minutes(data_dir)
    calendar = SessionCalendar.load("2024-03-26", "2024-12-31")
    tape = write_tape(tmp_path / "wide.csv", list(resampled(minutes, calendar, interval_s)))
    trades, holdings, exit_times = play(tape, desk, interval_s)
    assert trades > 100
    assert holdings == 0
    assert max(exit_times) in LAST[interval_s]
    assert exit_times <= LAST[interval_s]


@pytest.mark.parametrize("desk", ["options", "shares"])
@pytest.mark.parametrize("interval_s", [900, 3600])
def test_made_up_weeks_of_wide_bars_have_no_trade_over_night(tmp_path: Path, interval_s: int, desk: str) -> None:
    calendar = SessionCalendar.load("2024-05-20", "2024-07-12")  # with the half day before Independence Day
    minutes = synthetic_sessions(5, [day for day in calendar.sessions if "2024-05-20" <= day.date <= "2024-07-12"])
    tape = write_tape(tmp_path / "wide.csv", list(resampled(minutes, calendar, interval_s)))
    trades, holdings, exit_times = play(tape, desk, interval_s)
    assert trades >= 10
    assert holdings == 0
    assert max(exit_times) in LAST[interval_s]
    assert exit_times <= LAST[interval_s]
