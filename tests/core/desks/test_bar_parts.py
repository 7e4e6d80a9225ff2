"""Longer bars of a tape of minutes: orders fill and stops act by the minute, and nights are held where declared.

Expected times and prices are written out by hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

import msgspec
import pytest

from daemon.core.effects import AskPolicy
from daemon.core.events import (
    BarClosed,
    BrokerSnapshot,
    Event,
    ModelVerified,
    OrderFilled,
    PartClosed,
    PolicyAnswered,
    Quote,
    QuotesReceived,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.limits import Contracts, Paper, Risk, Sizing, Trading
from daemon.core.paper.paper import PaperBroker
from daemon.core.paper.state import PaperPosition, PaperState, SessionClose, SharePaperState
from daemon.core.records import DecisionRow
from daemon.core.state import Identity
from daemon.core.step import Step
from daemon.engine.recover import fresh_machine
from strategies.kit.contract import AnyStrategy, Bar, Session
from strategies.kit.timeframes import joined
from tests.support.core.desk import CALL, MINUTE, MONDAY, SESSIONS
from tests.support.core.longer_bars import LongerBars, longer_spec

TUESDAY = SESSIONS[1]
RULES = Trading(
    Sizing(stop_loss=0.01, take_profit=0.5),
    Contracts(min_days=1),
    risk=Risk(gap_min=400, daily_loss_max=1.0, drawdown_max=1.0, cooldown_trade_s=0, cooldown_loss_s=0),
    paper=Paper(cash_usd=Decimal(100_000), share_cost_rate=Decimal(0), share_wait_rate=Decimal(0)),
)
START: tuple[Event, ...] = (
    BrokerSnapshot(1, Decimal(100_000), (), ()),
    ModelVerified(1, "v1", "d", promoted=True, feed="sip"),
)


def minute_bar(session: Session, minute: int, price: float, low: float = 0.0) -> Bar:
    start = session.open_ns + minute * MINUTE
    return Bar("SPY", start, price, price, low or price, price, 1000.0)


def of_minutes(session: Session, minutes: list[Bar], length: int, *, parts: bool) -> list[Event]:
    """A session's events of these minutes: the whole bars, and their parts before them."""
    events: list[Event] = [SessionScheduled(session.open_ns, session, SESSIONS[2:], ())]
    for first in range(0, len(minutes), length):
        group = minutes[first : first + length]
        if parts:
            events += [PartClosed(one.start_ns + MINUTE, one) for one in group]
        whole = joined(group[0].start_ns, group)
        events.append(BarClosed(min(whole.start_ns + length * MINUTE, session.close_ns), whole))
    return events


class Run:
    """A replay whose policy is long from the first question on."""

    def __init__(self, strategy: AnyStrategy, events: list[Event]) -> None:
        self.fills: list[OrderFilled] = []
        self.exits: list[tuple[str | None, int]] = []
        self.asked: list[int] = []
        self.left: list[int] = []
        identity = Identity("replay", "d", strategy.spec.name, "e1", "sip")
        self.machine = fresh_machine(strategy, identity, RULES)

        def answer(question: AskPolicy, now_ns: int) -> PolicyAnswered:
            self.asked.append(now_ns)
            return PolicyAnswered(now_ns, question.decision, (0.0, 1.0), b"", "v1")

        self.machine.run([*START, *events], answer, self._watch)

    def _watch(self, event: Event, step: Step) -> None:
        if isinstance(event, OrderFilled):
            self.fills.append(event)
        if isinstance(event, SessionEnded):
            self.left.append(len(step.state.book.positions))
        rows = [row for row in step.rows if isinstance(row, DecisionRow) and row.outcome == "exit"]
        self.exits += [(row.action, row.time_ns) for row in rows]


def fallen(session: Session) -> list[Bar]:
    """An hour at 100 USD whose minute 20 touches 98.5 USD."""
    return [minute_bar(session, minute, 100.0, 98.5 if minute == 20 else 0.0) for minute in range(60)]


def test_a_stop_is_left_a_minute_after_its_touch_however_long_the_bar_is() -> None:
    run = Run(LongerBars(longer_spec(15)), of_minutes(MONDAY, fallen(MONDAY), 15, parts=True))
    assert [(fill.filled_ns - MONDAY.open_ns) // MINUTE for fill in run.fills[:2]] == [15, 21]
    assert run.exits == [("stop_loss", MONDAY.open_ns + 21 * MINUTE)]


def test_of_whole_bars_it_is_left_at_the_bar_s_end_with_the_same_decisions() -> None:
    of_parts = Run(LongerBars(longer_spec(15)), of_minutes(MONDAY, fallen(MONDAY), 15, parts=True))
    whole = Run(LongerBars(longer_spec(15)), of_minutes(MONDAY, fallen(MONDAY), 15, parts=False))
    assert whole.exits == [("stop_loss", MONDAY.open_ns + 30 * MINUTE)]
    assert whole.asked == of_parts.asked == [MONDAY.open_ns + minute * MINUTE for minute in (15, 30, 45, 60)]


def test_a_low_before_the_entry_stops_nothing_when_the_whole_bar_has_it_again() -> None:
    """The entry of 9:45 fills at the open of that minute; the low of the whole bar is one of its parts, seen once."""
    minutes = [minute_bar(MONDAY, minute, 100.0) for minute in range(45)]
    minutes[15] = minute_bar(MONDAY, 15, 98.0)  # the fill: a price after it, never below its stop
    minutes[16:30] = [minute_bar(MONDAY, minute, 97.9) for minute in range(16, 30)]
    run = Run(LongerBars(longer_spec(15)), of_minutes(MONDAY, minutes, 15, parts=True))
    assert [((fill.filled_ns - MONDAY.open_ns) // MINUTE, fill.price) for fill in run.fills] == [(15, Decimal(98))]
    assert run.exits == []


@pytest.mark.parametrize("overnight", [False, True])
def test_over_night_or_flat_is_what_the_spec_declares(overnight: bool) -> None:
    days = [[minute_bar(session, minute, price) for minute in range(390)] for session, price in NIGHT]
    events: list[Event] = []
    for (session, _), minutes in zip(NIGHT, days, strict=True):
        events += [*of_minutes(session, minutes, 60, parts=True), SessionEnded(session.close_ns, session.date)]
    run = Run(LongerBars(longer_spec(60, overnight=overnight)), events)
    if overnight:
        assert run.left == [1, 1]
        assert [fill.side for fill in run.fills] == [1]
        assert float(run.machine.state.book.equity) == 100_000 + 5 * run.fills[0].quantity  # by the night's gap
    else:
        assert run.left == [0, 0]
        assert run.exits[0] == ("flat_before_close", MONDAY.open_ns + 360 * MINUTE)
        assert [fill.side for fill in run.fills] == [1, -1, 1, -1]


NIGHT = ((MONDAY, 100.0), (TUESDAY, 105.0))


def quoted(events: Sequence[Event], symbol: str) -> list[tuple[int, int, Quote]]:
    """Time, the start of the bar that is closed, and the contract's quote of each event with quotes."""
    news = [event for event in events if isinstance(event, QuotesReceived)]
    return [(e.time_ns, e.closes_bar_ns, q) for e in news for q in e.quotes if q.symbol == symbol]


def test_contracts_are_quoted_by_the_minute_as_if_minutes_were_the_bars_and_the_whole_has_no_range_again() -> None:
    broker, holding = PaperBroker(RULES, "SPY"), PaperPosition(CALL, 1, Decimal(5))
    closes = tuple(SessionClose(f"2024-05-{day:02}", 500.0 + day % 3) for day in range(1, 23))
    start = msgspec.structs.replace(broker.start(), holdings=(holding,), closes=closes)
    start, _ = broker.step(start, SessionScheduled(MONDAY.open_ns, MONDAY, SESSIONS[1:], ()))
    minutes = [minute_bar(MONDAY, minute, 500.0 + minute, 499.0) for minute in range(15)]
    of_parts: list[Event] = []
    by_minute: list[Event] = []
    state = other = start
    for one in minutes:
        state, news = broker.step(state, PartClosed(one.start_ns + MINUTE, one))
        of_parts += news
        other, news = broker.step(other, BarClosed(one.start_ns + MINUTE, one))
        by_minute += news
    assert [quote for _, _, quote in quoted(of_parts, CALL)] == [quote for _, _, quote in quoted(by_minute, CALL)]
    assert {closes_bar_ns for _, closes_bar_ns, _ in quoted(of_parts, CALL)} == {0}
    _, news = broker.step(state, BarClosed(MONDAY.open_ns + 15 * MINUTE, joined(MONDAY.open_ns, minutes)))
    [(time_ns, closes_ns, last)] = quoted(news, CALL)
    assert (time_ns, closes_ns) == (MONDAY.open_ns + 15 * MINUTE, MONDAY.open_ns)
    newest = quoted(by_minute, CALL)[-1][2]
    assert (last.bid, last.ask, last.quoted_ns) == (newest.bid, newest.ask, newest.quoted_ns)
    assert last.low == last.high == (last.bid + last.ask) / 2 > newest.low


def test_a_state_without_parts_is_written_as_it_was() -> None:
    for state in (PaperState(Decimal(1)), SharePaperState(Decimal(1))):
        assert b"part_ns" not in msgspec.json.encode(state)
