"""What a daily desk always does and never does: Hypothesis draws prices, goals, fills, faults and restarts.

The first property plays against the paper broker, the second against a broker that fills and rejects at will.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace as changed
from decimal import Decimal
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.core import events as ev
from daemon.core.effects import AskPolicy, CancelOrder, SubmitOrder
from daemon.core.limits import Basket, Paper, Trading
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.paper.state import broker_snapshot
from daemon.core.records import FillRow
from daemon.core.state import State, encode_state
from daemon.core.step import Core, Machine, Step
from strategies.kit.contract import Session
from tests.support.core.daily_desk import IDENTITY, KEEP, LAST_FRIDAY, SYMBOLS, DailyDesk, Shelf, bar
from tests.support.core.desk import DAY, FRIDAY, HALF_DAY, MINUTE, MONDAY, TUESDAY, of
from tests.support.examples import examples

DAYS = (MONDAY, TUESDAY, HALF_DAY, FRIDAY)
RISK = changed(Trading().risk, daily_loss_max=1.0, drawdown_max=1.0)
TRADING = Trading(
    paper=Paper(cash_usd=Decimal(10000), share_fees_below_usd=Decimal(0)),
    risk=RISK,
    execution=changed(Trading().execution, policy_valid_s=7200),
)
CENTS = st.integers(100, 20_000)
PRICES = st.tuples(*(st.one_of(st.none(), CENTS, CENTS, CENTS),) * 3)  # an opening price in cents; None: no print
GOALS = st.tuples(*(st.one_of(st.just(KEEP), st.integers(0, 300).map(float)),) * 3)


# --- against the paper broker -------------------------------------------------------------------------------------


def tape(opens: list[tuple[int | None, ...]], again: list[int]) -> Iterator[ev.Event]:
    """The days' events of a daily tape, `RebalanceDue` as often as `again` says."""
    before: tuple[Session, ...] = (LAST_FRIDAY,)
    yield from (ev.BarClosed(LAST_FRIDAY.close_ns, bar(symbol, LAST_FRIDAY, 100.0)) for symbol in SYMBOLS)
    for day, prices, times in zip(DAYS, opens, again, strict=True):
        yield ev.SessionScheduled(day.open_ns - 30 * MINUTE, day, (), before)
        for _ in range(times):
            yield ev.RebalanceDue(day.open_ns - 15 * MINUTE, day.date)
        open_prices = {s: Decimal(p) / 100 for s, p in zip(SYMBOLS, prices, strict=True) if p is not None}
        prints = tuple(ev.Price(symbol, price) for symbol, price in open_prices.items())
        yield ev.PricesPrinted(day.open_ns, day.date, True, prints)
        yield ev.PricesPrinted(day.open_ns + MINUTE, day.date, False, prints)
        yield from (ev.BarClosed(day.close_ns, bar(symbol, day, float(price))) for symbol, price in open_prices.items())
        yield ev.SessionEnded(day.close_ns, day.date)
        before = (*before, day)


@settings(max_examples=examples(60))
@given(
    st.lists(PRICES, min_size=4, max_size=4), st.lists(GOALS, min_size=4, max_size=4),
    st.lists(st.integers(1, 3), min_size=4, max_size=4),
)  # fmt: skip
def test_in_a_replay_cash_stays_above_zero_costs_are_paid_once_and_sales_come_first(
    opens: list[tuple[int | None, ...]], goals: list[tuple[float, ...]], again: list[int]
) -> None:
    core, market = Core(Shelf()), SharePaperBroker(TRADING, SYMBOLS)
    machine = Machine(core, core.start(IDENTITY, TRADING), market, market.start())
    machine.apply(broker_snapshot(market.start(), 0))
    machine.apply(ev.ModelVerified(0, "v1", "d", promoted=True, feed="sip"))
    decisions: list[int] = []
    fills: list[FillRow] = []

    def answer(question: AskPolicy, now_ns: int) -> ev.PolicyAnswered:
        decisions.append(question.decision)
        return ev.PolicyAnswered(now_ns, question.decision, goals[len(decisions) - 1], b"", "v1")

    def watch(event: ev.Event, step: Step) -> None:
        assert step.state.book.cash >= 0
        assert all(position.quantity > 0 for position in step.state.book.positions.values())
        assert not of(list(step.effects), CancelOrder)  # whole fills at once: there is nothing to price anew
        assert not isinstance(event, ev.OrderRejected)
        fills.extend(row for row in step.rows if isinstance(row, FillRow))

    state = machine.run(tape(opens, again), answer, watch)
    book, there = state.book, machine.market_state
    assert len(decisions) == len(DAYS)
    assert (book.cash, book.fees) == (there.cash, there.costs)
    assert {s: p.quantity for s, p in book.positions.items()} == {s: h.quantity for s, h in there.holdings.items()}
    payments = [(Decimal(row.price) * row.quantity, row.side) for row in fills]
    costs = sum((abs(amount) * Decimal("0.001") for amount, _ in payments), Decimal(0))
    assert abs(book.fees - costs) <= Decimal("0.000001") * len(fills)
    assert book.cash == 10000 - sum((amount * side for amount, side in payments), Decimal(0)) - book.fees
    for day in DAYS:
        today = [row for row in fills if day.open_ns <= row.filled_ns < day.close_ns]
        assert [row.side for row in today] == sorted(row.side for row in today)
    assert state.works == {}


# --- against a broker that does as it likes -----------------------------------------------------------------------

WEEK = tuple(
    Session(f"2024-07-{1 + i:02}", MONDAY.open_ns + i * DAY, MONDAY.close_ns + i * DAY) for i in range(30)
)  # days of a calendar without weekends
KINDS = (
    *("due", "due", "answer", "answer", "answer", "quotes", "quotes", "quotes", "fill", "fill", "fill", "accept"),
    *("cancel", "reject", "unknown", "missing", "expire", "prints", "tick", "tick", "tick", "halt", "resume"),
    *("flatten", "day", "bars", "bars", "bars"),
)
HAPPENINGS = st.lists(st.tuples(st.sampled_from(KINDS), st.integers(0, 99), st.integers(0, 99)), max_size=80)


def happening(state: State[Any], kind: str, a: int, b: int) -> ev.Event:
    """An event of this kind that the state allows; a tick of the clock where it allows none."""
    now, session = state.now_ns, state.session.session or MONDAY
    orders = [order for order in state.orders.values() if order.status != "submitted" or kind != "cancel"]
    order = orders[a % len(orders)] if orders else None
    price = Decimal(5000 + 100 * a) / 100
    match kind:
        case "due":
            return ev.RebalanceDue(now, WEEK[a % 4].date if a > 80 else session.date)
        case "answer" if state.ask is not None:
            goals = tuple(float(KEEP if (a + 7 * i) % 3 == 0 else (a * (i + 1) * 37 + b) % 160) for i in range(3))
            return ev.PolicyAnswered(now, state.ask.decision, goals, b"", "v1")
        case "quotes":
            symbols = SYMBOLS[: 1 + b % 3]
            near = {s: state.marks.get(s, price) * (97 + a % 7) / 100 if b % 4 else price for s in symbols}
            bids = {s: bid.quantize(Decimal("0.01")) for s, bid in near.items()}
            return ev.QuotesReceived(now, 0, tuple(ev.Quote(s, bid, bid + 1, bid, bid, now) for s, bid in bids.items()))
        case "prints":
            return ev.PricesPrinted(now, session.date, False, (ev.Price(SYMBOLS[a % 3], price),))
        case "fill" if order is not None:
            if b > 90:  # once more
                price = order.cost / order.filled if order.filled else price
            total = min(order.quantity, order.filled + (b * order.quantity // 60 if b <= 90 else 0))
            fill_price = min(price, order.limit_price) if order.side > 0 and order.limit_price is not None else price
            cost = order.cost + fill_price * (total - order.filled)
            fees = (cost * Decimal("0.001")).quantize(Decimal("0.000001"), rounding="ROUND_DOWN")
            return ev.OrderFilled(
                now,
                order.client_order_id,
                order.symbol,
                order.side,
                fill_price,
                now,
                total,
                cost,
                fees,
                total - order.filled,
            )
        case "accept" if order is not None:
            return ev.OrderAccepted(now, order.client_order_id)
        case "cancel" if order is not None:
            return ev.OrderCanceled(now, order.client_order_id)
        case "reject" if order is not None and not order.filled:
            return ev.OrderRejected(now, order.client_order_id, "no")
        case "expire" if order is not None:
            return ev.OrderExpired(now, order.client_order_id)
        case "unknown" if order is not None:
            return ev.OrderUnknown(now, order.client_order_id)
        case "missing" if order is not None and not order.known:
            return ev.OrderMissing(now, order.client_order_id)
        case "halt" if a > 90:
            return ev.HaltRequested(now, "operator", "x", "ann")
        case "resume":
            return ev.ResumeRequested(now, "x", "ann")
        case "flatten" if a > 95:
            return ev.FlattenRequested(now, "x", "ann")
        case "day":
            if state.session.ended:
                following = WEEK[[day.date for day in WEEK].index(session.date) + 1]
                return ev.SessionScheduled(following.open_ns - 30 * MINUTE, following, (), (session,))
            if now > session.close_ns - 120 * MINUTE:
                return ev.SessionEnded(session.close_ns, session.date)
        case "bars" if state.session.ended:
            return ev.BarClosed(now, bar(SYMBOLS[a % 3], session, 50.0 + a))
    step_ns = (1, 4, 20, 100, 400)[b % 5] * MINUTE // 20
    return ev.ClockTicked(min(now + step_ns, session.close_ns))


@settings(max_examples=examples(150))
@given(HAPPENINGS, st.booleans())
def test_whatever_happens_cash_stays_above_zero_and_there_is_one_basket_a_day(
    happenings: list[tuple[str, int, int]], before_close: bool
) -> None:
    keeps_its_promises(happenings, before_close=before_close)


@pytest.mark.parametrize("seed", range(6))
def test_a_long_and_wild_week_breaks_no_promise_either(seed: int) -> None:
    draw = random.Random(seed)
    wild = [(draw.choice(KINDS), draw.randrange(100), draw.randrange(100)) for _ in range(2500)]
    state = keeps_its_promises(wild, before_close=seed % 2 == 0)
    assert state.stats.orders > 4
    assert state.stats.fills > 4


def keeps_its_promises(happenings: list[tuple[str, int, int]], *, before_close: bool) -> State[Any]:
    """Step all of it and assert after each event what must always hold; returns the last state."""
    rules = changed(TRADING, basket=Basket(decide="before_close" if before_close else "after_close"))
    d = DailyDesk(rules).fund().begin(MONDAY)
    d.bars(LAST_FRIDAY, **dict.fromkeys(SYMBOLS, 100.0))
    decode = d.core.decoder().decode
    names: set[str] = set()
    dates: list[str] = []
    state = d.state
    for kind, a, b in happenings:
        event = happening(state, kind, a, b)
        step = d.core.step(state, event)
        again = d.core.step(decode(encode_state(state)), event)  # a restart before it
        assert encode_state(again.state) == encode_state(step.state)
        assert again.rows == step.rows
        before, state = state, step.state
        assert state.book.cash >= 0
        assert all(position.quantity > 0 for position in state.book.positions.values())
        if of(list(step.effects), AskPolicy):
            assert isinstance(event, ev.RebalanceDue)
            dates.append(event.date)
        for order in of(list(step.effects), SubmitOrder):
            sent_again = order.client_order_id in before.orders
            assert order.client_order_id not in names or sent_again
            names.add(order.client_order_id)
            if order.side < 0:
                sales = [o for o in state.orders.values() if (o.symbol, o.side) == (order.symbol, -1)]
                selling = sum(o.remaining for o in sales if not o.closing)  # that call sells what is free alone
                assert selling <= state.book.positions[order.symbol].quantity
            else:
                assert state.risk.halt is None
                assert state.session.session is not None
                assert state.session.session.open_ns <= state.now_ns < state.session.session.close_ns
            assert order.auction == (state.now_ns < (state.session.session or MONDAY).open_ns)
    assert len(dates) == len(set(dates))
    assert dates == sorted(dates)
    return state


def test_a_state_of_a_desk_in_mid_basket_reads_back_as_it_was_written() -> None:
    d = DailyDesk().fund().holds(AAA=10)
    d.begin(TUESDAY)
    d.due()
    d.answer(0, 20, KEEP)
    assert d.core.decoder().decode(encode_state(d.state)) == msgspec.structs.replace(d.state)
