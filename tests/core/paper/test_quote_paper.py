"""Orders against quotes from outside, each rule by hand to the cent, and its purity: any moment's copy goes on alike.

Fees here: 0.03 + 0.02 a contract, 0.01 more a contract sold, 0.0001 of the proceeds of sales; rounded up to the cent.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace as configured
from decimal import Decimal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from daemon.core.effects import CancelOrder, Effect, RaiseAlarm, SubmitOrder, WatchContracts
from daemon.core.events import (
    BarClosed,
    CancelRejected,
    ClockTicked,
    Contract,
    ContractExpired,
    ContractsListed,
    Event,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    Quote,
    QuotesReceived,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.instruments.option_market import OccContract, parse_occ
from daemon.core.limits import Paper, Trading
from daemon.core.paper.paper import PaperBroker
from daemon.core.paper.quotes import QuotePaperBroker
from daemon.core.paper.state import PaperPosition, PaperState
from strategies.kit.contract import Bar, Session
from strategies.kit.quantity import Quantity

SECOND = 1_000_000_000
MINUTE = 60 * SECOND
DAY = 1440 * MINUTE
MONDAY = Session("2024-07-01", DAY, DAY + 390 * MINUTE)
TUESDAY = Session("2024-07-02", 2 * DAY, 2 * DAY + 390 * MINUTE)
CALL, PUT = "SPY240702C00500000", "SPY240702P00500000"
TODAY_CALL, TODAY_PUT = "SPY240701C00500000", "SPY240701P00500000"
TRADING = Trading(
    paper=Paper(orf_usd=Decimal("0.03"), occ_usd=Decimal("0.02"), taf_usd=Decimal("0.01"), sec_rate=Decimal("0.0001"))
)
BROKER = QuotePaperBroker(TRADING, "SPY")


def occ(symbol: str) -> OccContract:
    contract = parse_occ(symbol)
    assert contract is not None
    return contract


def listing(*symbols: str) -> ContractsListed:
    contracts = ((symbol, occ(symbol)) for symbol in symbols)
    return ContractsListed(
        DAY - MINUTE, MONDAY.date, tuple(Contract(s, c.expiry, c.right, c.strike, 500) for s, c in contracts), None
    )


def at(second: int) -> ClockTicked:
    """A tick `second` seconds after Monday's open."""
    return ClockTicked(MONDAY.open_ns + second * SECOND)


def quotes(second: int, *sides: tuple[str, str, str], age_s: int = 0) -> QuotesReceived:
    """(symbol, bid, ask) known `second` seconds after Monday's open, quoted `age_s` before."""
    now = MONDAY.open_ns + second * SECOND
    quotes = (
        Quote(symbol, Decimal(bid), Decimal(ask), Decimal(bid), Decimal(ask), now - age_s * SECOND)
        for symbol, bid, ask in sides
    )
    return QuotesReceived(now, 0, tuple(quotes))


def bar(minute: int, close: float, symbol: str = "SPY") -> BarClosed:
    start = MONDAY.open_ns + minute * MINUTE
    return BarClosed(start + MINUTE, Bar(symbol, start, close, close, close, close, 1.0))


def buy(name: str, symbol: str = CALL, quantity: int = 1, limit: str | None = "9.00") -> SubmitOrder:
    return SubmitOrder(name, symbol, 1, quantity, None if limit is None else Decimal(limit), "buy_to_open", 2**62)


def sell(name: str, symbol: str = CALL, quantity: int = 1, limit: str | None = "0.01") -> SubmitOrder:
    return SubmitOrder(name, symbol, -1, quantity, None if limit is None else Decimal(limit), "sell_to_close", 2**62)


def run(
    state: PaperState, *steps: tuple[Event, Iterable[Effect]], broker: QuotePaperBroker = BROKER
) -> tuple[PaperState, list[Event]]:
    events: list[Event] = []
    for event, effects in steps:
        state, answers = broker.step(state, event, tuple(effects))
        events.extend(answers)
    return state, events


def monday(quantities: Mapping[str, int] | None = None, cash: str = "10000") -> PaperState:
    """Monday, with two days' calls and puts listed."""
    holdings = tuple(
        PaperPosition(symbol, quantity, Decimal("1.00")) for symbol, quantity in (quantities or {}).items()
    )
    state = replace(BROKER.start(), cash=Decimal(cash), holdings=holdings)
    scheduled = SessionScheduled(DAY - 2 * MINUTE, MONDAY, (TUESDAY,))
    return run(state, (scheduled, ()), (listing(CALL, PUT, TODAY_CALL, TODAY_PUT), ()))[0]


def fills(events: Iterable[Event]) -> list[tuple[str, Decimal, Quantity]]:
    """(client order id, price, cumulative quantity) of every fill."""
    return [(e.client_order_id, e.price, e.cumulative_quantity) for e in events if isinstance(e, OrderFilled)]


def reasons(events: Iterable[Event]) -> list[str]:
    return [event.reason for event in events if isinstance(event, OrderRejected | CancelRejected)]


# --- quotes and fills ---------------------------------------------------------------------------------------------


def test_a_buy_takes_the_ask_of_the_first_quote_after_it_and_pays_fees() -> None:
    state, events = run(monday(), (at(10), [buy("a", quantity=3)]), (quotes(12, (CALL, "2.00", "2.05")), []))
    quote_ns = quotes(12).time_ns
    assert events == [
        OrderAccepted(at(10).time_ns, "a"),
        # 3 x 2.05 = 6.15 a share; fees 3 x 0.05 = 0.15
        OrderFilled(quote_ns, "a", CALL, 1, Decimal("2.05"), quote_ns, 3, Decimal("6.15"), Decimal("0.15"), 3),
    ]
    assert state.cash == Decimal("9384.85")  # 10000 - 3 x 205 - 0.15
    assert state.holdings == (PaperPosition(CALL, 3, Decimal("2.05")),)
    assert state.orders == ()


def test_a_sale_takes_the_bid_and_pays_the_fees_of_sales() -> None:
    state, events = run(monday({CALL: 3}), (at(10), [sell("a", quantity=2)]), (quotes(12, (CALL, "2.00", "2.05")), []))
    assert fills(events) == [("a", Decimal("2.00"), 2)]
    assert state.cash == Decimal("10399.84")  # 10000 + 2 x 200 - (2 x 0.06 + 0.0001 x 400)
    assert state.holdings == (PaperPosition(CALL, 1, Decimal("1.00")),)


def test_a_quote_given_before_the_order_or_in_its_very_moment_never_fills_it() -> None:
    early = (quotes(9, (CALL, "1.00", "1.01")), [buy("a")])  # the order follows from this very event
    late = (quotes(12, (CALL, "1.00", "1.02"), age_s=3), ())  # known later, but as old as the order
    state, events = run(monday(), early, late)
    assert fills(events) == []
    assert fills(run(state, (quotes(13, (CALL, "1.00", "1.03"), age_s=3), []))[1]) == [("a", Decimal("1.03"), 1)]


def test_a_fill_is_dated_by_its_quote_but_never_after_it_was_known() -> None:
    for age_s, expected in ((1, 19), (-5, 20)):  # the second exchange's clock runs five seconds ahead
        _, events = run(monday(), (at(10), [buy("a")]), (quotes(20, (CALL, "2.00", "2.05"), age_s=age_s), []))
        (fill,) = (event for event in events if isinstance(event, OrderFilled))
        assert (fill.time_ns, fill.filled_ns) == (at(20).time_ns, at(expected).time_ns)


@pytest.mark.parametrize(
    ("order", "bid", "ask", "price"),
    [
        (buy("a", limit="2.05"), "2.00", "2.05", "2.05"),
        (buy("a", limit="2.05"), "2.00", "2.06", None),
        (buy("a", limit="2.05"), "1.00", "1.05", "1.05"),  # the better price, as an exchange gives
        (sell("a", limit="2.00"), "2.00", "2.05", "2.00"),
        (sell("a", limit="2.00"), "1.99", "2.05", None),
        (sell("a", limit="2.00"), "3.00", "3.05", "3.00"),
        (buy("a", limit="9.00"), "2.00", "0", None),  # no offer
        (sell("a", limit="0.01"), "0", "0.05", None),  # no bid
        (sell("a", limit=None), "0", "0.05", None),
        (sell("a", limit=None), "0.03", "0.05", "0.03"),
    ],
)
def test_a_limit_fills_only_when_marketable_and_a_missing_side_never(
    order: SubmitOrder, bid: str, ask: str, price: str | None
) -> None:
    state, events = run(monday({CALL: 1}), (at(10), [order]), (quotes(12, (CALL, bid, ask)), []))
    assert [fill[1] for fill in fills(events)] == ([] if price is None else [Decimal(price)])
    assert len(state.orders) == (price is None)


def test_a_market_buy_needs_a_known_ask_to_be_accepted_and_takes_the_next_one() -> None:
    nothing = run(monday(), (at(10), [buy("a", limit=None)]))[1]
    no_offer = run(monday(), (quotes(8, (CALL, "2.00", "0")), []), (at(10), [buy("a", limit=None)]))[1]
    assert reasons(nothing) == reasons(no_offer) == ["market order without a quote"]
    quote_step = (quotes(8, (CALL, "2.00", "2.05")), ())
    _, events = run(monday(), quote_step, (at(10), [buy("a", limit=None)]), (quotes(12, (CALL, "2.00", "2.10")), []))
    assert fills(events) == [("a", Decimal("2.10"), 1)]


def test_a_quote_fills_at_most_what_a_minute_takes_and_only_once() -> None:
    broker = QuotePaperBroker(configured(TRADING, paper=configured(TRADING.paper, contracts_per_minute=2)), "SPY")
    first = quotes(12, (CALL, "2.00", "2.05"))
    again = replace(quotes(14, (CALL, "2.00", "2.05"), age_s=2))  # once more, unchanged
    steps = [(at(10), [buy("a", quantity=5)]), (first, []), (again, []), (quotes(15, (CALL, "2.00", "2.10")), [])]
    state, events = run(monday(), *steps, broker=broker)
    assert fills(events) == [("a", Decimal("2.05"), 2), ("a", Decimal("2.10"), 4)]
    assert [event.quantity for event in events if isinstance(event, OrderFilled)] == [2, 2]
    state, events = run(state, (at(20), [CancelOrder("a")]), (quotes(22, (CALL, "2.00", "2.10")), []), broker=broker)
    assert events == [OrderCanceled(at(20).time_ns, "a")]
    assert state.holdings == (PaperPosition(CALL, 4, Decimal("2.075")),)


def test_quotes_of_other_contracts_and_of_other_hours_fill_nothing() -> None:
    state, _ = run(monday(), (at(-30), [buy("a")]))
    before_the_open = quotes(-10, (CALL, "2.00", "2.05"))
    other = quotes(5, (PUT, "2.00", "2.05"))
    after_the_close = quotes(390 * 60, (CALL, "2.00", "2.05"))
    assert fills(run(state, (before_the_open, []), (other, []), (after_the_close, []))[1]) == []
    assert fills(run(replace(state, session=None), (quotes(5, (CALL, "2.00", "2.05")), []))[1]) == []


def test_orders_fill_in_the_order_in_which_they_came() -> None:
    state, _ = run(monday({CALL: 2}), (at(10), [sell("b"), sell("a", limit="9.00")]), (at(11), [buy("c", PUT)]))
    _, events = run(state, (quotes(12, (PUT, "1.00", "1.10"), (CALL, "2.00", "2.05")), []))
    assert fills(events) == [("b", Decimal("2.00"), 1), ("c", Decimal("1.10"), 1)]


# --- acceptance ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (buy("a", quantity=0), "qty must be > 0 (requested: 0)"),
        (buy("a", "SPY240702C00600000"), 'asset "SPY240702C00600000" not found'),  # not in the listing
        (buy("a", limit="1.005"), "limit price 1.005 must be a positive multiple of 0.01"),
        (
            replace(buy("a"), intent="sell_to_close"),
            "position intent mismatch, inferred: buy_to_open, specified: sell_to_close",
        ),
        (sell("a"), "insufficient qty available for order (requested: 1, available: 0)"),
        (
            buy("a", quantity=2, limit="50.00"),
            "insufficient options buying power (required: 10000.10, available: 10000)",
        ),
    ],
)
def test_an_order_that_cannot_stand_is_rejected_with_the_brokers_words(order: SubmitOrder, reason: str) -> None:
    state, events = run(monday(), (at(10), [order]))
    assert events == [OrderRejected(at(10).time_ns, "a", reason)]
    assert (state.orders, state.cash) == ((), Decimal(10000))


def test_a_working_market_buy_reserves_the_last_ask() -> None:
    state, _ = run(monday(cash="410.09"), (quotes(5, (CALL, "2.00", "2.05")), []))
    _, events = run(state, (at(10), [buy("a", limit=None), buy("b", limit=None)]))
    # 205.05 each: 410.10 for two
    assert reasons(events) == ["insufficient options buying power (required: 205.05, available: 205.04)"]


def test_a_held_contract_that_is_no_longer_listed_can_be_sold() -> None:
    state, events = run(monday({"SPY240702C00400000": 1}), (at(10), [sell("a", "SPY240702C00400000")]))
    assert events == [OrderAccepted(at(10).time_ns, "a")]
    assert [order.client_order_id for order in state.orders] == ["a"]


def test_market_orders_are_refused_outside_the_session() -> None:
    _, events = run(monday({CALL: 1}), (at(-1), [sell("a", limit=None)]))
    assert reasons(events) == ["options market orders are only allowed during market hours"]


def test_only_a_working_order_can_be_cancelled_and_an_id_counts_once() -> None:
    state, events = run(monday(), (at(10), [buy("a", quantity=0)]), (at(11), [CancelOrder("a"), CancelOrder("z")]))
    assert reasons(events)[1:] == ["order is not cancelable", "order not found"]
    with pytest.raises(ValueError, match="'a' was submitted twice"):
        BROKER.step(state, at(12), (buy("a"),))


def test_what_is_of_no_concern_changes_nothing() -> None:
    state = monday()
    assert BROKER.step(state, at(1)) == (state, ())
    assert BROKER.step(state, at(1), (RaiseAlarm("x", "y"),)) == (state, ())
    assert BROKER.step(state, SessionEnded(DAY, "2024-06-28")) == (state, ())
    assert BROKER.step(state, bar(0, 500.0, "QQQ")) == (state, ())
    assert BROKER.step(state, SessionScheduled(DAY, MONDAY, (TUESDAY,))) == (state, ())


def test_quotes_are_forgotten_when_nobody_watches_holds_or_works_for_the_contract() -> None:
    event = quotes(5, (CALL, "2.00", "2.05"), (PUT, "1.00", "1.05"), (TODAY_PUT, "1.00", "1.05"))
    state, _ = run(monday({CALL: 1}), (event, [buy("a", PUT, limit="0.50")]), (at(6), [WatchContracts((TODAY_CALL,))]))
    assert state.watched == (TODAY_CALL,)
    assert [quote.symbol for quote in state.quotes] == [CALL, PUT]


# --- the session's end --------------------------------------------------------------------------------------------


def test_working_orders_expire_with_the_session_and_its_quotes_with_them() -> None:
    state, _ = run(monday(), (quotes(5, (CALL, "2.00", "2.05")), [buy("a", limit="1.00")]))
    end = SessionEnded(MONDAY.close_ns, MONDAY.date)
    state, events = run(state, (end, ()))
    assert events == [OrderExpired(MONDAY.close_ns, "a")]
    assert (state.orders, state.quotes, state.session) == ((), (), None)


@pytest.mark.parametrize(
    ("symbol", "close", "shares", "cash"),
    [
        (TODAY_CALL, 500.01, 200, "-90000"),  # two calls buy 200 shares at 500
        (TODAY_PUT, 499.99, -200, "110000"),
        (TODAY_CALL, 500.0, 0, "10000"),
        (TODAY_PUT, 500.0, 0, "10000"),
    ],
)
def test_expiring_options_settle_at_the_close_of_the_last_bar(
    symbol: str, close: float, shares: int, cash: str
) -> None:
    bars = [(bar(388, 700.0), ()), (bar(389, close), ()), (bar(387, 300.0), ())]  # the last to come is a late one
    state, events = run(monday({symbol: 2, CALL: 1}), *bars, (SessionEnded(MONDAY.close_ns, MONDAY.date), ()))
    assert events == [ContractExpired(MONDAY.close_ns, symbol, 2, "SPY", shares, Decimal(500))]
    assert state.cash == Decimal(cash)
    assert {holding.symbol: holding.quantity for holding in state.holdings} == (
        {CALL: 1, "SPY": shares} if shares else {CALL: 1}
    )


def test_a_session_whose_end_was_missed_is_ended_when_the_next_one_is_scheduled() -> None:
    state, _ = run(monday({TODAY_CALL: 1, CALL: 1}), (bar(0, 490.0), [buy("a")]))
    state, events = run(state, (SessionScheduled(2 * DAY, TUESDAY, ()), ()))
    assert events == [
        OrderExpired(2 * DAY, "a"),
        ContractExpired(2 * DAY, TODAY_CALL, 1, "SPY", 0, Decimal(500)),
    ]
    assert (state.session, state.listed) == (TUESDAY, (CALL, PUT))  # what expired on Monday is no longer listed


def test_what_expired_on_a_missed_day_settles_as_soon_as_a_close_is_known() -> None:
    later = Session("2024-07-03", 3 * DAY, 3 * DAY + 210 * MINUTE)
    state_before = replace(monday({CALL: 1}), session=None)
    state, events = run(state_before, (SessionScheduled(3 * DAY, later, ()), ()))
    assert (events, state.holdings) == ([], state_before.holdings)
    last = BarClosed(later.close_ns, Bar("SPY", later.open_ns, 510.0, 510.0, 510.0, 510.0, 1.0))
    _, events = run(state, (last, ()), (SessionEnded(later.close_ns, later.date), ()))
    assert events == [ContractExpired(later.close_ns, CALL, 1, "SPY", 100, Decimal(500))]


def test_a_session_without_a_bar_keeps_the_close_before_it() -> None:
    state, _ = run(monday({CALL: 1}), (bar(389, 490.0), ()), (SessionEnded(MONDAY.close_ns, MONDAY.date), ()))
    _, events = run(state, (SessionScheduled(2 * DAY, TUESDAY, ()), ()), (SessionEnded(3 * DAY, TUESDAY.date), ()))
    assert events == [ContractExpired(3 * DAY, CALL, 1, "SPY", 0, Decimal(500))]


# --- laws ---------------------------------------------------------------------------------------------------------


def test_each_broker_says_only_what_it_names() -> None:
    news = {OrderAccepted, OrderRejected, OrderFilled, OrderCanceled, OrderExpired, CancelRejected, ContractExpired}
    assert set(QuotePaperBroker.EMITS) == news
    assert set(PaperBroker.EMITS) == news | {ContractsListed, QuotesReceived}


CENTS = st.integers(0, 500).map(lambda cents: str(Decimal(cents) / 100))
ORDERS = st.tuples(st.sampled_from([buy, sell]), st.integers(0, 4), st.none() | CENTS)
MOMENTS = st.lists(st.one_of(ORDERS, st.tuples(CENTS, CENTS, st.integers(0, 3))), max_size=25)


@given(MOMENTS, st.integers(0, 25))
def test_never_is_more_sold_than_held_and_a_copy_from_json_always_goes_on_alike(
    moments: list[tuple[object, ...]], copied_at: int
) -> None:
    state = twin = monday({CALL: 2})
    filled_cost = Decimal(0)
    for index, moment in enumerate(moments):
        event: Event = at(index)
        effects: tuple[Effect, ...] = ()
        match moment:
            case (str(bid), str(ask), int(age_s)):
                event = quotes(index, (CALL, bid, ask), age_s=age_s)
            case (make, int(quantity), limit):
                assert callable(make)
                effects = (make(f"o{index}", CALL, quantity, limit),)
        if index == copied_at:
            twin = msgspec.json.decode(msgspec.json.encode(twin), type=PaperState)
        state, events = BROKER.step(state, event, effects)
        twin, twin_events = BROKER.step(twin, event, effects)
        assert (state, events) == (twin, twin_events)
        assert {type(news) for news in events} <= set(QuotePaperBroker.EMITS)
        assert all(holding.quantity > 0 for holding in state.holdings)
        for news in events:
            if isinstance(news, OrderFilled):
                filled_cost += news.side * news.price * news.quantity * 100
    outlay = Decimal(10000) - state.cash
    assert outlay >= filled_cost  # what the fills cost, and fees, which are never negative


# --- stops that rest ----------------------------------------------------------------------------------------------


def stop(name: str, price: str, limit: str | None = None) -> SubmitOrder:
    order_limit = None if limit is None else Decimal(limit)
    return SubmitOrder(name, CALL, -1, 1, order_limit, "sell_to_close", 2**62, stop_price=Decimal(price))


def test_a_bid_at_the_stop_or_below_sells_at_it_and_no_bid_at_all_does_not() -> None:
    state, events = run(
        monday({CALL: 1}),
        (at(10), [stop("s", "1.10")]),
        (quotes(11, (CALL, "1.11", "1.20")), []),
        (quotes(12, (CALL, "0", "1.20")), []),
    )
    assert (fills(events), len(state.orders)) == ([], 1)
    state, events = run(state, (quotes(13, (CALL, "1.05", "1.20")), []))
    assert (fills(events), state.orders) == ([("s", Decimal("1.05"), 1)], ())


def test_a_quote_from_before_the_stop_does_not_elect_it() -> None:
    state, events = run(
        monday({CALL: 1}), (at(10), [stop("s", "1.10")]), (quotes(11, (CALL, "1.00", "1.1"), age_s=2), [])
    )
    assert (fills(events), len(state.orders)) == ([], 1)


def test_a_stop_limit_sells_no_lower_than_its_limit_and_waits_for_it_once_elected() -> None:
    state, events = run(
        monday({CALL: 1}), (at(10), [stop("s", "1.10", "0.55")]), (quotes(11, (CALL, "0.50", "0.60")), [])
    )
    assert (fills(events), len(state.orders)) == ([], 1)
    _, events = run(state, (quotes(12, (CALL, "1.30", "1.40")), []))
    assert fills(events) == [("s", Decimal("1.30"), 1)]
