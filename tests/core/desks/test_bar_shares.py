"""A desk that decides at each bar and holds shares: composed of the two axes, with no code of its own in the daemon."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.desks.bars import AtEachBar
from daemon.core.desks.registry import desk_of
from daemon.core.desks.shares.desk import Shares
from daemon.core.effects import AskPolicy, SubmitOrder
from daemon.core.limits import Paper, Trading
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.paper.state import broker_snapshot
from daemon.core.records import DecisionRow
from daemon.core.state import Identity, encode_state
from daemon.core.step import Core, Machine, Step
from strategies.kit.contract import Bar
from tests.support.core.daily_desk import Shelf
from tests.support.core.desk import MINUTE, MONDAY, SESSIONS, Pointer
from tests.support.core.share_bars import ShareBars

IDENTITY = Identity("replay", "desk-1", "share_bars", "e1", "sip")
RULES = Trading(paper=Paper(cash_usd=Decimal(10_000)))
OPENS = (500.0, 500.5, 501.0, 501.5, 502.0, 502.5, 503.0, 503.5)  # of the bars; each closes 0.2 higher
MODEL = ev.ModelVerified(0, "v1", "d", promoted=True, feed="sip")
SCHEDULED = ev.SessionScheduled(MONDAY.open_ns - MINUTE, MONDAY, SESSIONS[1:])


def bar(minute: int, open_: float, close: float | None = None) -> ev.BarClosed:
    start, close = MONDAY.open_ns + minute * MINUTE, open_ + 0.2 if close is None else close
    high, low = max(open_, close), min(open_, close)
    return ev.BarClosed(start + MINUTE, Bar("SPY", start, open_, high, low, close, 1000.0))


def feed() -> list[ev.Event]:
    bars = [bar(minute, price) for minute, price in enumerate(OPENS)]
    return [MODEL, SCHEDULED, *bars, ev.SessionEnded(MONDAY.close_ns, MONDAY.date)]


def machine() -> Machine:
    core = Core(ShareBars())
    market = core.desk.paper(RULES, "replay")
    assert isinstance(market, SharePaperBroker)
    return Machine(core, core.start(IDENTITY, RULES), market, market.start())


def long_from_first_to_third(ask: AskPolicy, now_ns: int) -> ev.PolicyAnswered:
    """Long at the first question, flat from the third on."""
    return ev.PolicyAnswered(now_ns, ask.decision, (0.0, 1.0) if ask.decision < 3 else (1.0, 0.0), b"", "v1")


def play(desk: Machine, events: list[ev.Event]) -> tuple[list[ev.Event], list[Step]]:
    """Run the whole feed; returns every event in the order it was stepped, and its step."""
    stepped: list[ev.Event] = []
    steps: list[Step] = []

    def watch(event: ev.Event, step: Step) -> None:
        stepped.append(event)
        steps.append(step)

    desk.run([broker_snapshot(desk.market_state, 0), *events], long_from_first_to_third, watch)
    return stepped, steps


def test_the_class_of_the_spec_alone_says_when_the_desk_decides_and_what_it_holds() -> None:
    desk = desk_of(ShareBars())
    assert (type(desk.decides), type(desk.holds)) == (AtEachBar, Shares)
    names = [gate.name for gate in desk.gates]
    assert len(names) == len(set(names))
    assert {"stale_bar", "near_close", "basket_legs", "order_weight", "oversell"} <= set(names)
    assert {"cooldown_trade", "cooldown_loss", "consecutive_losses"} <= set(names)
    assert not {"stale_history", "open_interest", "max_position"} & set(names)


def test_an_order_of_one_bar_trades_at_the_open_of_the_next_one_and_every_cent_is_booked() -> None:
    """Three bars make it warm: bought after the third (closes 501.2) at the fourth's open, sold after the fifth."""
    desk = machine()
    stepped, _ = play(desk, feed())
    fills = [event for event in stepped if isinstance(event, ev.OrderFilled)]
    assert [(f.side, f.quantity, f.price) for f in fills] == [(1, 10, Decimal("501.5")), (-1, 10, Decimal("502.5"))]
    assert [f.filled_ns - MONDAY.open_ns for f in fills] == [3 * MINUTE + 1, 5 * MINUTE + 1]
    cash = Decimal(10_000) - Decimal(5015) - Decimal("5.015") + Decimal(5025) - Decimal("5.025")
    cash -= Decimal("0.16")  # at the end: SEC 5,025 x 0.0000278 = 0.1397, TAF 0.00166, CAT 0.00096, each rounded up
    assert desk.state.book.cash == desk.state.book.equity == desk.market_state.cash == cash
    assert desk.state.book.positions == {}
    assert (desk.state.stats.decisions, desk.state.stats.orders, desk.state.stats.trades) == (6, 2, 1)


def test_every_bar_is_one_question_and_one_row() -> None:
    _, steps = play(machine(), feed())
    rows = [row for step in steps for row in step.rows if isinstance(row, DecisionRow)]
    outcomes = [(row.action, row.outcome) for row in rows]
    assert outcomes == [("LONG", "ordered"), ("LONG", "hold"), ("FLAT", "ordered"), *[("FLAT", "hold")] * 3]


def test_shares_stay_overnight_and_are_marked_at_the_last_quotes() -> None:
    """The mid of the last close 502.2 and of 502.2 x 1.0002 = 502.30044 rounded up to 502.3005 is 502.25025."""
    desk = machine()
    play(desk, [*feed()[:7], ev.SessionEnded(MONDAY.close_ns, MONDAY.date)])
    # the sale was sent after the fifth bar and no sixth came: it lapsed with the session, which cost a cent for CAT
    assert desk.state.book.positions["SPY"].quantity == 10
    assert desk.state.book.equity == Decimal(10_000) - Decimal(5015) - Decimal("5.025") + Decimal("5022.5025")


def test_a_journal_applied_again_rebuilds_the_desk() -> None:
    desk = machine()
    stepped, _ = play(desk, feed())
    again = machine()
    for event in stepped:
        again.reapply(event)
    assert encode_state(again.state) == encode_state(desk.state)
    assert (again.market_state, list(again.queue)) == (desk.market_state, [])


def test_a_snapshot_of_its_state_is_read_back_whole() -> None:
    desk = machine()
    play(desk, feed()[:6])
    assert desk.core.decoder().decode(encode_state(desk.state)) == desk.state


def test_a_buy_beyond_its_limit_is_priced_anew_at_the_next_bar() -> None:
    """The fourth bar opens 1 % above the third's close: no fill. The next order follows, and fills at the fifth's."""
    bars = [bar(0, 500.0), bar(1, 500.0), bar(2, 500.0, 500.0), bar(3, 505.0, 505.0), bar(4, 505.5)]
    stepped, steps = play(desk := machine(), [MODEL, SCHEDULED, *bars])
    fills = [event for event in stepped if isinstance(event, ev.OrderFilled)]
    assert [fill.price for fill in fills] == [Decimal("505.5")]
    effects = [effect for step in steps for effect in step.effects if isinstance(effect, SubmitOrder)]
    limits = [order.limit_price for order in effects if order.side > 0]
    assert limits == [Decimal("501.1002"), Decimal("506.1113")]  # 500 x 1.0002 x 1.002, and 505.101 x 1.002
    assert desk.state.book.positions["SPY"].quantity == 10


def test_what_the_last_basket_did_not_come_to_ends_with_the_next_one() -> None:
    """The buy does not fill before the third answer says flat: nothing is held, and nothing is bought any more."""
    bars = [bar(0, 500.0), bar(1, 500.0), bar(2, 500.0, 500.0), *[bar(3 + i, 505.0 + 5 * i) for i in range(4)]]
    desk = machine()
    play(desk, [MODEL, SCHEDULED, *bars, ev.SessionEnded(MONDAY.close_ns, MONDAY.date)])
    assert (desk.state.book.positions, desk.state.works, desk.state.orders) == ({}, {}, {})


def test_a_desk_that_is_halted_buys_nothing_and_a_flatten_sells_all() -> None:
    desk = machine()
    events = feed()
    events.insert(7, ev.FlattenRequested(MONDAY.open_ns + 4 * MINUTE + 30 * 10**9, "a test", "me"))
    stepped, _ = play(desk, events[:8] + events[9:])
    assert [event.side for event in stepped if isinstance(event, ev.OrderFilled)] == [1, -1]
    assert desk.state.book.positions == {}
    assert desk.state.risk.halt is not None


@pytest.mark.parametrize(("price", "confirmed"), [(560.0, True), (500.4, False)])
def test_a_bar_that_leaps_counts_when_quotes_of_the_share_say_the_same(price: float, confirmed: bool) -> None:
    desk = machine()
    play(desk, feed()[:5])
    core, state = desk.core, desk.state
    leaping = bar(3, 560.0)
    state = core.step(state, leaping).state
    assert state.doubted == leaping.bar
    middle = Decimal(str(price))
    quote = ev.Quote("SPY", middle, middle, middle, middle, leaping.time_ns)
    state = core.step(state, ev.QuotesReceived(leaping.time_ns, leaping.bar.start_ns, (quote,))).state
    assert (state.doubted is None) is confirmed
    assert (state.session.spot == leaping.bar.close) is confirmed


def test_a_wide_quote_confirms_no_bar() -> None:
    desk = machine()
    play(desk, feed()[:5])
    leaping = bar(3, 560.0)
    state = desk.core.step(desk.state, leaping).state
    quote = ev.Quote("SPY", Decimal(100), Decimal(1020), Decimal(560), Decimal(560), leaping.time_ns)
    state = desk.core.step(state, ev.QuotesReceived(leaping.time_ns, leaping.bar.start_ns, (quote,))).state
    assert state.doubted == leaping.bar


def test_a_correction_reaches_the_strategy() -> None:
    desk = machine()
    play(desk, feed()[:5])
    late = replace(bar(2, 501.0).bar, close=501.1)
    state: Any = desk.core.step(desk.state, ev.BarCorrected(MONDAY.open_ns + 4 * MINUTE, late)).state
    assert state.strategy.rows[-1][0] == 501.1


def test_a_basket_denied_for_a_passing_cause_waits_no_longer_than_its_answer_is_valid() -> None:
    desk = machine()
    play(desk, feed()[:4])
    core, state = desk.core, replace(desk.state, risk=replace(desk.state.risk, reconciled=False))
    third = feed()[4]
    state = core.step(state, third).state
    middle = Decimal("501.25")
    quote = ev.Quote("SPY", Decimal("501.2"), Decimal("501.3"), middle, middle, third.time_ns)
    state = core.step(state, ev.QuotesReceived(third.time_ns, third.time_ns - MINUTE, (quote,))).state
    assert state.ask is not None
    state = core.step(state, ev.PolicyAnswered(third.time_ns, 1, (0.0, 1.0), b"", "v1")).state
    assert state.basket.waiting is not None
    assert state.basket.waiting.until_ns == third.time_ns + 30 * 10**9
    state = core.step(state, ev.ClockTicked(third.time_ns + 31 * 10**9)).state
    assert (state.basket.waiting, state.works) == (None, {})


def test_a_split_of_what_it_holds_keeps_the_equity() -> None:
    """10 shares become 20 at half the mark; no adjusted history is waited for, since bars are not adjusted."""
    desk = machine()
    play(desk, feed()[:6])
    state_before = desk.state
    line = ev.Activity("s1", "SPLIT", "SPY", Decimal(10), None, Decimal(0), "executed", state_before.now_ns)
    report = ev.BrokerReported(
        state_before.now_ns,
        state_before.now_ns,
        "",
        state_before.book.cash,
        "",
        (ev.BrokerPosition("SPY", Decimal(20), Decimal("250.75")),),
        (),
        (),
        (),
        (line,),
    )
    state_before = replace(state_before, broker=replace(state_before.broker, began_ns=1))
    state = desk.core.step(state_before, report).state
    assert state.book.positions["SPY"].quantity == 20
    assert state.book.equity == state_before.book.equity
    assert state.basket.unadjusted == ()


@pytest.mark.parametrize(("mode", "paper"), [("paper", False), ("live", False), ("replay", True), ("dry_run", True)])
@pytest.mark.parametrize("strategy", [ShareBars(), Shelf(), Pointer()])
def test_a_paper_broker_is_there_only_where_no_real_one_is(strategy: Any, mode: str, paper: bool) -> None:
    assert (desk_of(strategy).paper(RULES, mode) is not None) is paper


def test_an_order_for_the_opening_auction_trades_at_the_open_of_the_first_bar() -> None:
    market: Any = machine().market
    order = SubmitOrder("b", "SPY", +1, 10, Decimal(501), "", MONDAY.close_ns, auction=True)
    state, _ = market.step(market.start(), SCHEDULED)
    state, _ = market.step(state, ev.ClockTicked(MONDAY.open_ns - 10 * MINUTE), (order,))
    state, events = market.step(state, bar(0, 500.0))
    assert [(f.quantity, f.price) for f in events if isinstance(f, ev.OrderFilled)] == [(10, Decimal(500))]
    assert state.orders == ()


def test_a_bar_outside_of_the_session_fills_and_quotes_nothing() -> None:
    market = machine().market
    assert market is not None
    state: Any = market.start()
    assert market.step(state, bar(0, 500.0)) == (state, ())
