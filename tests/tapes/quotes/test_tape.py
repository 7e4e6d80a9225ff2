"""Bars and recorded quotes as one feed: which contracts are listed, which quotes come, and where a journal goes on.

The session is 2024-08-15, a Thursday; its open is 13:30 UTC.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from itertools import pairwise
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.core.events import BarClosed, ContractsListed, Event, QuotesReceived, SessionEnded, SessionScheduled
from daemon.core.limits import Contracts, Paper, Trading
from daemon.core.paper.state import PaperPosition, RecordedState
from daemon.host.time.calendar import SessionCalendar
from daemon.tapes.files import TapeError
from daemon.tapes.minutes import TapeSource, scan
from daemon.tapes.quotes.tape import QuotedTape, option_quotes
from tests.support.quote_files import rows_of, write_quotes

CALL, PUT = "SPY240816C00550000", "SPY240816P00550000"
HIGHER, WEEK = "SPY240816C00552000", "SPY240822C00550000"
TRADING = Trading(paper=Paper(volatility_sessions=2))


def bars(path: Path, *days: tuple[str, Sequence[float]]) -> Path:
    """One-minute bars of SPY from 13:30 UTC: (date, closes)."""
    lines = ["timestamp,open,high,low,close,volume"]
    for date, closes in days:
        for minute, close in enumerate(closes):
            at = f"{date}T{13 + (30 + minute) // 60:02d}:{(30 + minute) % 60:02d}:00+00:00"
            lines.append(f"{at},{close},{close + 1},{close - 1},{close},100")
    path.write_text("\n".join(lines) + "\n")
    return path


class Feed:
    """A quoted tape, and the state of its paper broker as the test sets it."""

    def __init__(self, tape: Path, quotes: Path, *, trading: Trading = TRADING, skip: int = 0, **more: Any) -> None:
        info = scan(tape, ("SPY",), 60)
        calendar = SessionCalendar.load(info.first_date, info.last_date)
        self.market = RecordedState(cash=Decimal(10000), watched=(CALL, PUT))
        choice = option_quotes(quotes, "SPY", **more)
        self.tape = QuotedTape(
            TapeSource(tape, info, calendar), choice, calendar, trading, "SPY", lambda: self.market, skip
        )

    def events(self) -> list[Event]:
        """All events; the paper broker takes note of each, as it does at work."""
        items = []
        for event in self.tape:
            items.append(event)
            self.note(event)
        return items

    def note(self, event: Event) -> None:
        """Take note of an event as the paper broker does."""
        if isinstance(event, ContractsListed):
            self.market = replace(self.market, listed_for=event.session_date)
        if isinstance(event, QuotesReceived):
            self.market = replace(self.market, closed_bar_ns=event.closes_bar_ns)


@pytest.fixture
def quotes(tmp_path: Path) -> Path:
    return write_quotes(
        tmp_path / "quotes.parquet",
        rows_of(
            [
                (CALL, "2024-08-15 13:31", 2.0, 2.1),
                (PUT, "2024-08-15 13:31", 1.5, 1.6),
                (HIGHER, "2024-08-15 13:31", 1.0, 1.1),
                (WEEK, "2024-08-15 13:31", 5.0, 5.2),
                (CALL, "2024-08-15 13:32", 2.2, 2.3),
                (PUT, "2024-08-15 13:33", 1.4, 1.3),  # crossed: a fault
                (CALL, "2024-08-15 13:33", 2.4, 2.5),
            ][:5]
            + [(CALL, "2024-08-15 13:33", 2.4, 2.5), (PUT, "2024-08-15 13:33", 1.4, 1.3)]
        ),
    )


@pytest.fixture
def tape(tmp_path: Path) -> Path:
    return bars(tmp_path / "bars.csv", ("2024-08-15", (550.0, 551.0, 552.0)))


def sides(events: Sequence[Event]) -> list[list[tuple[str, str, str]]]:
    """(symbol, bid, ask) of each set of quotes."""
    return [
        [(quote.symbol, str(quote.bid), str(quote.ask)) for quote in event.quotes]
        for event in events
        if isinstance(event, QuotesReceived)
    ]


def test_contracts_follow_the_session_and_quotes_each_bar(tape: Path, quotes: Path) -> None:
    feed = Feed(tape, quotes)
    events = feed.events()
    kinds = [SessionScheduled, ContractsListed, *(BarClosed, QuotesReceived) * 3, SessionEnded]
    assert [type(event) for event in events] == kinds
    assert sides(events) == [
        [(CALL, "2.0", "2.1"), (PUT, "1.5", "1.6")],
        [(CALL, "2.2", "2.3")],
        [(CALL, "2.4", "2.5")],  # the put's is crossed
    ]
    bar, closing = events[-3], events[-2]
    assert isinstance(bar, BarClosed)
    assert isinstance(closing, QuotesReceived)
    assert closing.closes_bar_ns == bar.bar.start_ns
    assert {quote.quoted_ns for quote in closing.quotes} == {bar.time_ns}
    assert dict(feed.tape.quote_counts.quotes) == {"recorded": 4, "missing": 2}
    assert (feed.tape.quote_counts.faulty, feed.tape.quote_counts.with_quotes) == (1, 1)


def test_contracts_are_listed_within_the_rules_days_and_strikes(tape: Path, quotes: Path) -> None:
    def listed(**paper: Any) -> list[str]:
        days = Contracts(min_days=1, max_days=paper.pop("max_days", 4))
        trading = Trading(contracts=days, paper=Paper(volatility_sessions=2, **paper))
        event = Feed(tape, quotes, trading=trading).events()[1]
        assert isinstance(event, ContractsListed)
        return [contract.symbol for contract in event.contracts]

    assert listed() == [CALL, PUT, HIGHER]
    assert listed(max_days=5) == [CALL, PUT, HIGHER, WEEK]  # the 22nd is five trading days away
    # parity of the first minute: 2.05 - 1.55 + 550 = 550.5, so 550 is below and 552 above
    assert listed(strikes_each_side=1) == [CALL, PUT, HIGHER]


def test_held_and_ordered_contracts_are_quoted_as_well(tape: Path, quotes: Path) -> None:
    feed = Feed(tape, quotes)
    feed.market = replace(
        feed.market, watched=(), holdings=(PaperPosition(WEEK, 1, Decimal(5)), PaperPosition("SPY", 100, Decimal(9)))
    )
    assert sides(feed.events())[0] == [(WEEK, "5.0", "5.2")]


def test_the_range_of_a_minute_is_that_of_its_mids(tmp_path: Path, tape: Path) -> None:
    rows = rows_of([(CALL, "2024-08-15 13:31", 2.0, 2.1)], low_bid=1.5, high_bid=2.4, low_ask=1.7, high_ask=2.6)
    event = Feed(tape, write_quotes(tmp_path / "q.parquet", rows)).events()[3]
    assert isinstance(event, QuotesReceived)
    assert [(q.low, q.high) for q in event.quotes] == [(Decimal("1.6"), Decimal("2.5"))]


def test_a_quote_stands_where_its_source_has_no_row_for_an_unchanged_one(tmp_path: Path) -> None:
    tape = bars(tmp_path / "bars.csv", ("2024-08-15", (550.0,) * 18))
    quote_rows = [(CALL, "2024-08-15 13:31", 2.0, 2.1)]
    for source, count in (("lean", 16), ("thetadata", 1)):  # the first minute, and fifteen more
        rows = rows_of(quote_rows, source=source, low_bid=1.0, high_bid=3.0, low_ask=1.2, high_ask=3.2)
        feed = Feed(tape, write_quotes(tmp_path / f"{source}.parquet", rows))
        items = [event.quotes[0] for event in feed.events() if isinstance(event, QuotesReceived) and event.quotes]
        assert len(items) == count
        assert feed.tape.quote_counts.quotes["standing"] == count - 1
        assert {(q.low, q.high) for q in items[1:]} <= {(Decimal("2.05"), Decimal("2.05"))}  # of an earlier minute


def test_the_volatility_comes_from_the_closes_before_the_session(tmp_path: Path) -> None:
    days = ("2024-08-12", "2024-08-13", "2024-08-14", "2024-08-15")
    closes = (540.0, 545.0, 541.0, 550.0)
    tape = bars(tmp_path / "bars.csv", *((day, (close,)) for day, close in zip(days, closes, strict=True)))
    rows = rows_of([("SPY240814C00550000", "2024-08-13 13:31", 2.0, 2.1), (CALL, "2024-08-15 13:31", 2.0, 2.1)])
    path = write_quotes(tmp_path / "q.parquet", rows)
    returns = [math.log(after / before) for before, after in pairwise(closes[:3])]
    realised = stdev(returns) * math.sqrt(252) * 1.25
    feed = Feed(tape, path)
    listed = [event for event in feed.events() if isinstance(event, ContractsListed)]
    assert [event.session_date for event in listed] == ["2024-08-13", "2024-08-15"]
    assert listed[0].volatility is None
    assert listed[1].volatility == pytest.approx(realised)
    assert (feed.tape.quote_counts.sessions, feed.tape.quote_counts.with_quotes) == (4, 2)

    closes_file = bars(tmp_path / "closes.csv", *((day, (2 * close,)) for day, close in zip(days, closes, strict=True)))
    one = bars(tmp_path / "one.csv", ("2024-08-15", (550.0,)))
    listed = [event for event in Feed(one, path, closes=closes_file).events() if isinstance(event, ContractsListed)]
    assert listed[0].volatility == pytest.approx(realised)  # of the other file, whose ratios are the same


def test_a_journal_goes_on_after_any_event(tmp_path: Path, quotes: Path) -> None:
    tape = bars(tmp_path / "bars.csv", ("2024-08-15", (550.0, 551.0, 552.0)), ("2024-08-16", (550.0, 551.0)))
    whole = Feed(tape, quotes).events()
    fed = (SessionScheduled, BarClosed, SessionEnded)
    for count in range(len(whole) + 1):
        before = whole[:count]
        feed = Feed(tape, quotes, skip=sum(isinstance(event, fed) for event in before))
        for event in before:
            feed.note(event)
        assert feed.events() == whole[count:], count
    with pytest.raises(TapeError, match="the journal holds 99 events of the tape, which has 9"):
        Feed(tape, quotes, skip=99).events()


def test_later_expiries_than_a_live_desk_knows_can_be_traded(tape: Path, quotes: Path) -> None:
    trading = Trading(contracts=Contracts(max_days=15), paper=Paper(volatility_sessions=2))
    scheduled = Feed(tape, quotes, trading=trading).events()[0]
    assert isinstance(scheduled, SessionScheduled)
    assert len(scheduled.upcoming) == 15
    assert scheduled.upcoming[11].date == "2024-09-03"  # the day before is Labor Day


def test_unusable_files_are_refused_with_the_cure(tmp_path: Path, quotes: Path) -> None:
    with pytest.raises(TapeError, match="no contract of QQQ in its first session; found SPY: name it by --option-root"):
        option_quotes(quotes, "QQQ")
    assert option_quotes(quotes, "QQQ", "SPY").root == "SPY"
    rows = rows_of([(CALL, "2024-08-15 20:00", 2.0, 2.1)])
    ends = write_quotes(tmp_path / "ends.parquet", rows, {b"interval": b"end_of_day"})
    with pytest.raises(TapeError, match="quotes of the interval end_of_day; expected minutes"):
        option_quotes(ends, "SPY")
