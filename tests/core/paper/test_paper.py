"""The paper broker's rules, each by hand to the cent, and its purity: same events, same answers, from any moment on.

Expected quotes come from `oracle`, Black-Scholes through the standard library's normal distribution in Decimal cents.
"""

from __future__ import annotations

import ast
import inspect
import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import replace as configured
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from statistics import NormalDist
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from daemon.core.effects import CancelOrder, Effect, RaiseAlarm, SubmitOrder, WatchContracts
from daemon.core.events import (
    AnyEvent,
    BarClosed,
    BrokerPosition,
    BrokerSnapshot,
    CancelRejected,
    ClockTicked,
    ContractExpired,
    ContractsListed,
    Event,
    OrderAccepted,
    OrderCanceled,
    OrderExpired,
    OrderFilled,
    OrderRejected,
    QuotesReceived,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.limits import Contracts, Paper, Trading
from daemon.core.paper.paper import PaperBroker
from daemon.core.paper.quotes import QuotePaperBroker
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.paper.state import PaperPosition, PaperState, RestingOrder, SessionClose, broker_snapshot
from strategies.kit.contract import Bar, Session
from strategies.kit.quantity import Quantity
from tests.support.examples import examples

MINUTE = 60_000_000_000
DAY = 1440 * MINUTE
MONDAY = Session("2024-07-01", DAY, DAY + 390 * MINUTE)
TUESDAY = Session("2024-07-02", 2 * DAY, 2 * DAY + 390 * MINUTE)
HALF_DAY = Session("2024-07-03", 3 * DAY, 3 * DAY + 210 * MINUTE)
CALL, PUT = "SPY240702C00500000", "SPY240702P00500000"
TODAY_CALL, TODAY_PUT = "SPY240701C00500000", "SPY240701P00500000"
TRADING = Trading(
    contracts=Contracts(min_days=0, max_days=2),
    paper=Paper(orf_usd=Decimal("0.03"), occ_usd=Decimal("0.02"), taf_usd=Decimal("0.01"), sec_rate=Decimal("0.0001")),
)
BROKER = PaperBroker(TRADING, "SPY")


def oracle(symbol: str, spot: float, minutes_left: int, nights: int) -> tuple[Decimal, Decimal]:
    """(bid, ask) of a contract struck at 500 when volatility is the floor, 8 %; `minutes_left` of regular trading."""
    years = (minutes_left * 0.54 / 390 + nights * 0.46) / 252
    law, deviation = NormalDist(), 0.08 * math.sqrt(years)
    d1 = math.log(spot / 500) / deviation + deviation / 2
    call = spot * law.cdf(d1) - 500 * law.cdf(d1 - deviation)
    mid = Decimal(call if "C" in symbol else call - spot + 500)
    half = max(Decimal("0.005"), Decimal("0.004") * mid)
    cent = Decimal("0.01")
    bid, ask = (mid - half).quantize(cent, ROUND_FLOOR), (mid + half).quantize(cent, ROUND_CEILING)
    return max(bid, Decimal(0)), ask


def minute_bar(minute: int, prices: tuple[float, float, float, float] = (500.0, 500.0, 500.0, 500.0)) -> BarClosed:
    """Monday's bar that starts `minute` minutes after the open, known at its end; `prices` open, high, low, close."""
    start = MONDAY.open_ns + minute * MINUTE
    return BarClosed(start + MINUTE, Bar("SPY", start, *prices, 1000.0))


def at(minute: int) -> ClockTicked:
    """A tick `minute` minutes after Monday's open."""
    return ClockTicked(MONDAY.open_ns + minute * MINUTE)


def buy(name: str, symbol: str = CALL, quantity: int = 1, limit: str | None = "9.00") -> SubmitOrder:
    return SubmitOrder(name, symbol, 1, quantity, None if limit is None else Decimal(limit), "buy_to_open", 2**62)


def sell(name: str, symbol: str = CALL, quantity: int = 1, limit: str | None = "0.01") -> SubmitOrder:
    return SubmitOrder(name, symbol, -1, quantity, None if limit is None else Decimal(limit), "sell_to_close", 2**62)


def run(
    state: PaperState, *steps: tuple[Event, Iterable[Effect]], broker: PaperBroker = BROKER
) -> tuple[PaperState, list[Event]]:
    events: list[Event] = []
    for event, effects in steps:
        state, answers = broker.step(state, event, tuple(effects))
        events.extend(answers)
    return state, events


def monday(
    quantities: Mapping[str, int] | None = None, broker: PaperBroker = BROKER, cash: str = "10000"
) -> PaperState:
    """Monday's start after 21 sessions that closed at 500, so volatility is at its floor and the middle strike 500."""
    closes = tuple(SessionClose(f"2024-05-{day:02}", 500.0) for day in range(1, 22))
    holdings = tuple(
        PaperPosition(symbol, quantity, Decimal("1.00")) for symbol, quantity in (quantities or {}).items()
    )
    state = replace(broker.start(), closes=closes, cash=Decimal(cash), holdings=holdings)
    return run(state, (SessionScheduled(DAY - MINUTE, MONDAY, (TUESDAY, HALF_DAY)), ()), broker=broker)[0]


def fills(events: Iterable[Event]) -> list[tuple[Decimal, int, Quantity]]:
    """(price, minutes after the open, cumulative quantity) of every fill."""
    return [
        (event.price, (event.filled_ns - MONDAY.open_ns) // MINUTE, event.cumulative_quantity)
        for event in events
        if isinstance(event, OrderFilled)
    ]


def reasons(events: Iterable[Event]) -> list[str]:
    return [event.reason for event in events if isinstance(event, OrderRejected | CancelRejected)]


# --- sessions, contracts, quotes ----------------------------------------------------------------------------------


def test_a_session_lists_whole_dollar_strikes_around_the_last_close_for_the_configured_expiries() -> None:
    _, events = run(replace(monday(), session=None), (SessionScheduled(DAY, MONDAY, (TUESDAY, HALF_DAY)), ()))
    (listed,) = events
    assert isinstance(listed, ContractsListed)
    assert (listed.session_date, listed.volatility) == ("2024-07-01", 0.08)
    assert {contract.expiry for contract in listed.contracts} == {"2024-07-01", "2024-07-02", "2024-07-03"}
    assert {contract.strike for contract in listed.contracts} == set(map(Decimal, range(475, 526)))
    assert {contract.open_interest for contract in listed.contracts} == {1000}
    assert len(listed.contracts) == 3 * 51 * 2
    assert {(contract.right, contract.symbol[-9]) for contract in listed.contracts} == {(1, "C"), (-1, "P")}
    assert CALL in {contract.symbol for contract in listed.contracts}


def test_the_same_session_scheduled_again_says_the_same_contracts_and_keeps_the_book() -> None:
    state, _ = run(monday(), (minute_bar(0), [buy("a")]), (minute_bar(1, (510.0, 510.0, 510.0, 510.0)), []))
    after, events = run(state, (SessionScheduled(DAY + 9 * MINUTE, MONDAY, (TUESDAY, HALF_DAY)), ()))
    assert after == state
    assert [type(event) for event in events] == [ContractsListed]


def test_while_volatility_is_unknown_there_are_no_contracts_and_no_quotes() -> None:
    state, events = run(BROKER.start(), (SessionScheduled(DAY, MONDAY, (TUESDAY,)), ()))
    assert events == []
    _, events = run(state, (minute_bar(0), [WatchContracts((CALL,)), buy("a")]))
    assert reasons(events) == [f'asset "{CALL}" not found']
    assert events[-1] == QuotesReceived(minute_bar(0).time_ns, MONDAY.open_ns, ())
    assert run(state, (SessionScheduled(DAY, MONDAY, (TUESDAY,)), ()))[1] == []


def sessions(count: int) -> list[Session]:
    return [Session(f"2024-06-{day + 1:02}", day * DAY, day * DAY + 390 * MINUTE) for day in range(count)]


def test_volatility_becomes_known_after_twenty_one_sessions_and_comes_from_earlier_ones_only() -> None:
    calendar, state, events = sessions(25), BROKER.start(), list[Event]()
    for index, session in enumerate(calendar):
        close = 500.0 * 1.01 ** (index % 2)
        bar = Bar("SPY", session.open_ns, 500.0, 600.0, 400.0, close, 1.0)
        steps = [
            SessionScheduled(session.open_ns, session, tuple(calendar[index + 1 :])),
            BarClosed(session.open_ns, bar),
        ]
        state, answers = run(state, *((event, ()) for event in [*steps, SessionEnded(session.close_ns, session.date)]))
        events.extend(answers)
    listed = [event for event in events if isinstance(event, ContractsListed)]
    assert [event.session_date for event in listed] == ["2024-06-22", "2024-06-23", "2024-06-24", "2024-06-25"]
    # twenty returns of +-ln 1.01, ten each: mean 0, deviation ln 1.01 x sqrt(20 / 19)
    assert listed[0].volatility == pytest.approx(math.log(1.01) * math.sqrt(20 / 19 * 252) * 1.25)
    assert len(state.closes) == 21


def test_history_bars_of_earlier_sessions_make_volatility_known_before_the_first_bar() -> None:
    calendar = sessions(22)
    today = calendar[-1]
    scheduled = SessionScheduled(today.open_ns, today, (), tuple(calendar[:-1]))
    state, events = run(BROKER.start(), (scheduled, ()))
    for session in calendar[:-1]:
        for start, close in ((session.open_ns, 480.0), (session.open_ns + MINUTE, 500.0), (session.close_ns, 470.0)):
            bar = Bar("SPY", start, close, close, close, close, 1.0)
            state, answers = run(state, (BarClosed(today.open_ns, bar), ()))
            events.extend(answers)
    assert events == []
    first = Bar("SPY", today.open_ns, 510.0, 510.0, 510.0, 510.0, 1.0)
    state, events = run(state, (BarClosed(today.open_ns + MINUTE, first), ()))
    assert [type(event) for event in events] == [ContractsListed, QuotesReceived]
    assert state.market is not None
    assert (state.market.volatility, state.market.centre) == (0.08, 500)


def test_every_regular_bar_of_the_underlying_is_closed_by_one_quote_of_what_is_watched_or_held() -> None:
    state = monday({CALL: 2})
    event = minute_bar(9, (500.0, 501.0, 499.0, 500.5))
    _, (news,) = run(state, (event, [WatchContracts((PUT, "SPY240705C00500000"))]))
    assert isinstance(news, QuotesReceived)
    assert (news.time_ns, news.closes_bar_ns) == (event.time_ns, event.bar.start_ns)
    assert [quote.symbol for quote in news.quotes] == [PUT, CALL]  # no price for an unknown session's expiry
    put, call = news.quotes
    assert put.low == put.high == sum(oracle(PUT, 500.5, 380 + 390, 1)) / 2  # nobody holds it: no stop to touch
    assert call.high == sum(oracle(CALL, 501.0, 380 + 390, 1)) / 2
    assert call.low == sum(oracle(CALL, 499.0, 380 + 390, 1)) / 2
    for quote in news.quotes:
        assert (quote.bid, quote.ask) == oracle(quote.symbol, 500.5, 380 + 390, 1)
        assert quote.bid.as_tuple().exponent == quote.ask.as_tuple().exponent == -2
        assert quote.quoted_ns == event.time_ns


def test_a_watched_contract_that_is_held_is_quoted_once() -> None:
    _, (news,) = run(monday({CALL: 1}), (minute_bar(0), [WatchContracts((CALL,))]))
    assert isinstance(news, QuotesReceived)
    assert [quote.symbol for quote in news.quotes] == [CALL]


@pytest.mark.parametrize(
    "bar",
    [
        Bar("QQQ", MONDAY.open_ns, 1.0, 1.0, 1.0, 1.0, 1.0),
        Bar("SPY", MONDAY.open_ns - MINUTE, 1.0, 1.0, 1.0, 1.0, 1.0),
        Bar("SPY", MONDAY.close_ns, 1.0, 1.0, 1.0, 1.0, 1.0),
    ],
)
def test_bars_of_other_symbols_or_hours_change_nothing(bar: Bar) -> None:
    assert BROKER.step(monday(), BarClosed(MONDAY.open_ns, bar)) == (monday(), ())


# --- matching -----------------------------------------------------------------------------------------------------


def test_an_order_never_fills_on_the_bar_that_was_already_closed() -> None:
    _, events = run(monday(), (minute_bar(0), [buy("a")]))
    assert [type(event) for event in events] == [OrderAccepted, QuotesReceived]
    state, _ = run(monday(), (ClockTicked(MONDAY.open_ns + 1), [buy("a")]))
    state, events = run(state, (minute_bar(0), []), (minute_bar(1), []))
    assert [minute for _, minute, _ in fills(events)] == [1]


def test_a_marketable_buy_fills_at_the_ask_of_the_next_open_and_pays_fees() -> None:
    state, events = run(
        monday(), (minute_bar(0), [buy("a", quantity=3)]), (minute_bar(1, (501.0, 502.0, 500.0, 500.0)), [])
    )
    ask = oracle(CALL, 501.0, 389 + 390, 1)[1]
    assert fills(events) == [(ask, 1, 3)]
    (fill,) = (event for event in events if isinstance(event, OrderFilled))
    assert fill.time_ns == minute_bar(1).time_ns
    assert (fill.cumulative_cost, fill.cumulative_fees) == (3 * ask, Decimal("0.15"))
    assert state.cash == 10000 - 300 * ask - Decimal("0.15")
    assert state.holdings == (PaperPosition(CALL, 3, ask),)
    assert state.orders == ()


def test_a_marketable_sale_fills_at_the_bid_of_the_next_open_and_pays_fees() -> None:
    state, events = run(
        monday({PUT: 3}), (minute_bar(0), [sell("a", PUT, 2)]), (minute_bar(1, (499.0, 500.0, 498.0, 500.0)), [])
    )
    bid = oracle(PUT, 499.0, 389 + 390, 1)[0]
    fees_usd = (Decimal("0.12") + Decimal("0.0001") * 200 * bid).quantize(Decimal("0.01"), ROUND_CEILING)
    assert fills(events) == [(bid, 1, 2)]
    assert state.cash == 10000 + 200 * bid - fees_usd
    assert state.holdings == (PaperPosition(PUT, 1, Decimal("1.00")),)


@pytest.mark.parametrize(
    ("order", "low", "high", "best"),
    [
        (buy("a", CALL), 498.0, 500.0, 498.0),  # calls are cheapest at the bar's low
        (buy("a", PUT), 500.0, 502.0, 502.0),  # puts at its high
        (sell("a", CALL), 500.0, 502.0, 502.0),  # and sell best the other way round
        (sell("a", PUT), 498.0, 500.0, 498.0),
    ],
)
def test_a_limit_touched_within_the_bar_fills_at_the_limit_and_one_cent_beyond_it_does_not(
    order: SubmitOrder, low: float, high: float, best: float
) -> None:
    touched = oracle(order.symbol, best, 388 + 390, 1)[1 if order.side > 0 else 0]
    bar = minute_bar(1, (500.0, high, low, 500.0))
    for limit, expected in ((touched, [(touched, 2, 1)]), (touched - order.side * Decimal("0.01"), [])):
        placed = replace(order, limit_price=limit)
        assert fills(run(monday({CALL: 1, PUT: 1}), (minute_bar(0), [placed]), (bar, []))[1]) == expected


def test_market_orders_take_the_other_side_of_the_open() -> None:
    state = monday({PUT: 1})
    orders = [buy("a", limit=None), sell("b", PUT, limit=None)]
    _, events = run(state, (minute_bar(0), orders), (minute_bar(1), []))
    expected = [(oracle(CALL, 500.0, 779, 1)[1], 1, 1), (oracle(PUT, 500.0, 779, 1)[0], 1, 1)]
    assert fills(events) == expected


def test_a_market_sale_without_a_bid_stays_working() -> None:
    state, events = run(monday({TODAY_CALL: 1}), (minute_bar(380, (480.0,) * 4), [sell("a", TODAY_CALL, limit=None)]))
    state, events = run(state, (minute_bar(381, (480.0,) * 4), []))
    assert fills(events) == []
    assert [order.client_order_id for order in state.orders] == ["a"]


def test_an_order_fills_by_parts_of_what_a_minute_takes_and_rounds_its_fees_once() -> None:
    paper = configured(TRADING.paper, contracts_per_minute=2, orf_usd=Decimal("0.003"), occ_usd=Decimal(0))
    broker = PaperBroker(configured(TRADING, paper=paper), "SPY")
    steps = [(minute_bar(0), [buy("a", quantity=5)]), (minute_bar(1), []), (minute_bar(2), []), (minute_bar(3), [])]
    state, events = run(monday(broker=broker), *steps, broker=broker)
    asks = [oracle(CALL, 500.0, 390 - minute + 390, 1)[1] for minute in (1, 2, 3)]
    assert fills(events) == [(asks[0], 1, 2), (asks[1], 2, 4), (asks[2], 3, 5)]
    parts = [event for event in events if isinstance(event, OrderFilled)]
    assert [part.cumulative_cost for part in parts] == [
        2 * asks[0],
        2 * asks[0] + 2 * asks[1],
        2 * asks[0] + 2 * asks[1] + asks[2],
    ]
    assert [part.cumulative_fees for part in parts] == [
        Decimal("0.01"),
        Decimal("0.02"),
        Decimal("0.02"),
    ]  # 0.006, 0.012, 0.015
    assert state.cash == 10000 - 100 * parts[-1].cumulative_cost - Decimal("0.02")
    assert state.holdings == (PaperPosition(CALL, 5, parts[-1].cumulative_cost / 5),)


def test_a_partly_filled_order_can_be_cancelled_and_keeps_its_fill() -> None:
    broker = PaperBroker(configured(TRADING, paper=configured(TRADING.paper, contracts_per_minute=1)), "SPY")
    state, _ = run(monday(broker=broker), (minute_bar(0), [buy("a", quantity=2)]), broker=broker)
    state, events = run(state, (minute_bar(1), [CancelOrder("a")]), (minute_bar(2), []), broker=broker)
    assert [event for event in events if isinstance(event, OrderCanceled)] == [
        OrderCanceled(minute_bar(1).time_ns, "a")
    ]
    assert [quantity for _, _, quantity in fills(events)] == [1]
    assert (state.orders, [holding.quantity for holding in state.holdings]) == ((), [1])


def test_orders_that_the_market_cannot_price_wait() -> None:
    state = replace(monday(), orders=(RestingOrder("a", "SPY240705C00500000", 1, 1, Decimal(9), 0),))
    assert fills(run(state, (minute_bar(0), []))[1]) == []
    assert fills(run(replace(state, market=None, closes=()), (minute_bar(0), []))[1]) == []


# --- acceptance ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("order", "reason"),
    [
        (buy("a", quantity=0), "qty must be > 0 (requested: 0)"),
        (buy("a", "SPY240702C00600000"), 'asset "SPY240702C00600000" not found'),  # outside the listed strikes
        (buy("a", "SPY240702C00500500"), 'asset "SPY240702C00500500" not found'),  # between two dollars
        (buy("a", "SPY240705C00500000"), 'asset "SPY240705C00500000" not found'),  # not listed that far
        (buy("a", "QQQ240702C00500000"), 'asset "QQQ240702C00500000" not found'),
        (buy("a", "SPY"), 'asset "SPY" not found'),
        (buy("a", limit="1.005"), "limit price 1.005 must be a positive multiple of 0.01"),
        (buy("a", limit="0.00"), "limit price 0.00 must be a positive multiple of 0.01"),
        (
            replace(buy("a"), intent="sell_to_close"),
            "position intent mismatch, inferred: buy_to_open, specified: sell_to_close",
        ),
        (buy("a", limit=None), "market order without a quote"),
        (sell("a"), "insufficient qty available for order (requested: 1, available: 0)"),
        (
            buy("a", quantity=2, limit="50.00"),
            "insufficient options buying power (required: 10000.10, available: 10000)",
        ),
    ],
)
def test_an_order_that_cannot_stand_is_rejected_with_the_brokers_words(order: SubmitOrder, reason: str) -> None:
    state, events = run(monday(), (at(0), [order]))
    assert events == [OrderRejected(MONDAY.open_ns, "a", reason)]
    assert (state.orders, state.cash) == ((), Decimal(10000))


@pytest.mark.parametrize("minute", [-1, 390])
def test_market_orders_are_refused_outside_the_session(minute: int) -> None:
    _, events = run(monday({CALL: 1}), (at(minute), [sell("a", limit=None)]))
    assert reasons(events) == ["options market orders are only allowed during market hours"]


def test_working_buys_reserve_their_premium_and_fees_until_they_are_gone() -> None:
    state, events = run(
        monday(cash="1000.10"), (at(0), [buy("a", limit="5.00"), buy("b", limit="5.00"), buy("c", limit="0.01")])
    )
    assert [type(event) for event in events] == [OrderAccepted, OrderAccepted, OrderRejected]
    assert reasons(events) == ["insufficient options buying power (required: 1.05, available: 0.00)"]
    _, events = run(state, (at(1), [CancelOrder("a"), buy("d", limit="5.00")]))
    assert [type(event) for event in events] == [OrderCanceled, OrderAccepted]


def test_a_market_buy_reserves_the_last_ask() -> None:
    ask = oracle(CALL, 500.0, 389 + 390, 1)[1]
    cash = str(200 * ask + Decimal("0.09"))
    _, events = run(monday(cash=cash), (minute_bar(0), [buy("a", limit=None), buy("b", limit=None)]))
    assert [type(event) for event in events] == [OrderAccepted, OrderRejected, QuotesReceived]
    unpriced = monday({"SPY240705C00500000": 1})
    _, events = run(unpriced, (minute_bar(0), [buy("a", "SPY240705C00500000", limit=None)]))
    assert reasons(events) == ["market order without a quote"]


def test_working_sales_hold_their_contracts() -> None:
    state, events = run(
        monday({CALL: 3}), (at(0), [sell("a", quantity=2, limit="9.00"), sell("b", quantity=2, limit="9.00")])
    )
    assert reasons(events) == ["insufficient qty available for order (requested: 2, available: 1)"]
    _, events = run(state, (at(1), [sell("c", limit="9.00"), buy("d", limit="99.99")]))
    assert events == [OrderAccepted(at(1).time_ns, "c"), OrderAccepted(at(1).time_ns, "d")]  # sales reserve no cash


def test_a_client_order_id_used_twice_is_a_broken_invariant() -> None:
    state, _ = run(monday(), (at(0), [buy("a", quantity=0)]))
    with pytest.raises(ValueError, match="'a' was submitted twice"):
        BROKER.step(state, at(1), (buy("a"),))


def test_only_a_working_order_can_be_cancelled() -> None:
    _, events = run(
        monday(), (minute_bar(0), [buy("a")]), (minute_bar(1), []), (at(3), [CancelOrder("a"), CancelOrder("z")])
    )
    assert reasons(events) == ["order is not cancelable", "order not found"]


def test_effects_for_others_change_nothing() -> None:
    assert BROKER.step(monday(), at(0), (RaiseAlarm("x", "y"),)) == (monday(), ())


@pytest.mark.parametrize("market", [PaperBroker, QuotePaperBroker, SharePaperBroker])
def test_the_events_that_move_a_market_are_those_that_its_step_matches(
    market: type[PaperBroker | QuotePaperBroker | SharePaperBroker],
) -> None:
    source = ast.parse(textwrap.dedent(inspect.getsource(market.step)))
    cases = [node.cls for node in ast.walk(source) if isinstance(node, ast.MatchClass)]
    matched = {case.id for case in cases if isinstance(case, ast.Name)}
    kinds = {kind.__name__ for kind in get_args(AnyEvent)}
    assert {kind.__name__ for kind in market.MOVED_BY} == matched & kinds


# --- the session's end --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("close", "shares_of_call", "shares_of_put"),
    [(502.0, 200, 0), (500.01, 200, 0), (500.0, 0, 0), (500.009, 0, 0), (499.99, 0, -300), (490.0, 0, -300)],
)
def test_expiring_contracts_are_exercised_when_a_cent_in_the_money(
    close: float, shares_of_call: int, shares_of_put: int
) -> None:
    state = monday({TODAY_CALL: 2, TODAY_PUT: 3, CALL: 1})
    end = SessionEnded(MONDAY.close_ns, MONDAY.date)
    state, events = run(state, (minute_bar(389, (close,) * 4), []), (end, []))
    strike = Decimal(500)
    assert events[-2:] == [
        ContractExpired(MONDAY.close_ns, TODAY_CALL, 2, "SPY", shares_of_call, strike),
        ContractExpired(MONDAY.close_ns, TODAY_PUT, 3, "SPY", shares_of_put, strike),
    ]
    shares = shares_of_call + shares_of_put
    assert state.cash == 10000 - 500 * shares
    expected = (PaperPosition(CALL, 1, Decimal("1.00")),) + ((PaperPosition("SPY", shares, strike),) if shares else ())
    assert state.holdings == expected
    assert run(state, (end, [])) == (state, [])


def test_shares_from_several_expiries_add_up_and_cancel_out() -> None:
    low, high = "SPY240701C00490000", "SPY240701P00510000"
    state = monday({low: 2, TODAY_CALL: 2, high: 3, "SPY240701P00505000": 3})
    state, _ = run(state, (minute_bar(389, (502.0,) * 4), []), (SessionEnded(MONDAY.close_ns, MONDAY.date), []))
    # calls buy 200 at 490 and 200 at 500: 400 at 495; puts sell 300 at 510 (100 stay), then 300 at 505: -200 at 505
    assert state.holdings == (PaperPosition("SPY", -200, Decimal(505)),)
    assert state.cash == 10000 - 200 * 490 - 200 * 500 + 300 * 510 + 300 * 505


def test_working_orders_lapse_at_the_end_and_the_close_is_remembered() -> None:
    steps = [
        (minute_bar(389, (503.0,) * 4), [buy("a", limit="0.01")]),
        (SessionEnded(MONDAY.close_ns, MONDAY.date), []),
    ]
    state, events = run(monday(), *steps)
    assert events[-1] == OrderExpired(MONDAY.close_ns, "a")
    assert (state.orders, state.session, state.market) == ((), None, None)
    assert state.closes[-1] == SessionClose("2024-07-01", 503.0)
    assert len(state.closes) == 21


def test_another_days_end_changes_nothing() -> None:
    assert BROKER.step(monday(), SessionEnded(MONDAY.close_ns, "2024-06-28")) == (monday(), ())


def test_a_forgotten_end_is_made_up_for_when_the_next_session_is_scheduled() -> None:
    state, _ = run(monday({TODAY_CALL: 1}), (minute_bar(0, (501.0,) * 4), [buy("a", limit="0.01")]))
    state, events = run(state, (SessionScheduled(TUESDAY.open_ns, TUESDAY, (HALF_DAY,)), ()))
    assert [type(event) for event in events] == [OrderExpired, ContractExpired, ContractsListed]
    assert (state.session, state.last_bar) == (TUESDAY, None)
    assert _centre(state) == 501


def _centre(state: PaperState) -> int:
    assert state.market is not None
    return state.market.centre


def test_a_contract_that_expired_on_a_missed_day_settles_before_the_next_session() -> None:
    state, _ = run(
        monday({CALL: 1}), (minute_bar(0, (501.0,) * 4), []), (SessionEnded(MONDAY.close_ns, MONDAY.date), [])
    )
    state, events = run(state, (SessionScheduled(HALF_DAY.open_ns, HALF_DAY, ()), ()))
    assert events[0] == ContractExpired(HALF_DAY.open_ns, CALL, 1, "SPY", 100, Decimal(500))
    assert state.holdings == (PaperPosition("SPY", 100, Decimal(500)),)


def test_without_a_bar_of_its_own_session_a_contract_settles_at_the_last_known_close() -> None:
    _, events = run(monday({"SPY240701C00499000": 1}), (SessionEnded(MONDAY.close_ns, MONDAY.date), []))
    assert events == [ContractExpired(MONDAY.close_ns, "SPY240701C00499000", 1, "SPY", 100, Decimal(499))]


def test_a_limit_order_sent_after_the_close_works_in_the_next_session() -> None:
    state, _ = run(monday({CALL: 1}), (minute_bar(389), []), (SessionEnded(MONDAY.close_ns, MONDAY.date), [sell("a")]))
    bar = Bar("SPY", TUESDAY.open_ns, 505.0, 505.0, 505.0, 505.0, 1.0)
    state, events = run(
        state, (SessionScheduled(TUESDAY.open_ns, TUESDAY, ()), ()), (BarClosed(TUESDAY.open_ns + MINUTE, bar), ())
    )
    assert [event.price for event in events if isinstance(event, OrderFilled)] == [oracle(CALL, 505.0, 390, 0)[0]]


def test_the_snapshot_names_cash_positions_and_open_orders() -> None:
    state, _ = run(monday({CALL: 2}), (at(0), [buy("a", limit="0.01")]))
    expected = BrokerSnapshot(7, Decimal(10000), (BrokerPosition(CALL, Decimal(2), Decimal("1.00")),), ("a",))
    assert broker_snapshot(state, 7) == expected


# --- purity -------------------------------------------------------------------------------------------------------

orders_of_a_minute = st.lists(
    st.tuples(
        st.sampled_from(["buy", "sell", "cancel"]),
        st.sampled_from([CALL, PUT, TODAY_CALL, TODAY_PUT]),
        st.integers(1, 6),
        st.one_of(st.none(), st.integers(1, 300)),
    ),
    max_size=3,
)


def tape(minutes: list[tuple[float, list[tuple[str, str, int, int | None]]]]) -> list[tuple[Event, tuple[Effect, ...]]]:
    """A session from random moves (USD) and orders, its end, and the next session's start."""
    steps: list[tuple[Event, tuple[Effect, ...]]] = []
    spot, number = 500.0, 0
    for minute, (move, wishes) in enumerate(minutes):
        effects: list[Effect] = [WatchContracts((CALL, PUT))]
        for kind, symbol, quantity, cents in wishes:
            number += 1
            limit = None if cents is None else str(Decimal(cents) / 100)
            if kind == "cancel":
                effects.append(CancelOrder(f"o{number - quantity}"))
            else:
                order = buy if kind == "buy" else sell
                effects.append(order(f"o{number}", symbol, quantity, limit))
        close = spot + move
        steps.append(
            (minute_bar(minute, (spot, max(spot, close) + 0.1, min(spot, close) - 0.1, close)), tuple(effects))
        )
        spot = close
    steps.append((SessionEnded(MONDAY.close_ns, MONDAY.date), ()))
    steps.append((SessionScheduled(TUESDAY.open_ns, TUESDAY, (HALF_DAY,)), ()))
    return steps


@settings(max_examples=examples(40), deadline=None)
@given(minutes=st.lists(st.tuples(st.floats(-1.5, 1.5), orders_of_a_minute), min_size=1, max_size=12))
def test_a_decoded_copy_always_continues_like_the_original_and_money_adds_up(
    minutes: list[tuple[float, list[tuple[str, str, int, int | None]]]],
) -> None:
    trading = configured(TRADING, paper=configured(TRADING.paper, contracts_per_minute=2))
    broker, twin = PaperBroker(trading, "SPY"), PaperBroker(trading, "SPY")
    state = monday(broker=broker)
    fills_by_order: dict[str, OrderFilled] = {}
    exercised = Decimal(0)
    for event, effects in tape(minutes):
        encoded = msgspec.json.encode(state)
        copy = msgspec.json.decode(encoded, type=PaperState)
        after, events = broker.step(state, event, effects)
        assert msgspec.json.encode(state) == encoded  # the input is not changed
        assert twin.step(copy, event, effects) == (after, events)
        for answer in events:
            if isinstance(answer, OrderFilled):
                fills_by_order[answer.client_order_id] = answer
            elif isinstance(answer, ContractExpired):
                exercised += answer.shares * answer.strike
        state = after
        assert all(holding.quantity > 0 for holding in state.holdings if holding.symbol != "SPY")
    outlay = sum(
        (fill.side * 100 * fill.cumulative_cost + fill.cumulative_fees for fill in fills_by_order.values()), exercised
    )
    assert state.cash == 10000 - outlay


# --- stops that rest ----------------------------------------------------------------------------------------------


def stop(name: str, price: Decimal, limit: Decimal | None = None, quantity: int = 1) -> SubmitOrder:
    return SubmitOrder(name, CALL, -1, quantity, limit, "sell_to_close", 2**62, stop_price=price)


def test_a_stop_sells_at_the_open_s_bid_below_it_else_a_cent_below_its_price() -> None:
    bid = oracle(CALL, 500.0, 779, 1)[0]
    flat, fall = minute_bar(1), minute_bar(1, (500.0, 500.0, 498.0, 499.0))
    assert oracle(CALL, 498.0, 778, 1)[0] < bid - Decimal("0.30")
    for price, bar, expected in (
        (bid, flat, [(bid, 1, 1)]),
        (bid - Decimal("0.20"), flat, []),
        (bid - Decimal("0.20"), fall, [(bid - Decimal("0.21"), 2, 1)]),
    ):
        state, events = run(monday({CALL: 1}), (minute_bar(0), ()), (at(1), (stop("s", price),)), (bar, ()))
        assert fills(events) == expected
        assert len(state.orders) == (not expected)


def test_a_stop_limit_whose_limit_is_not_there_is_a_limit_order_from_then_on() -> None:
    bid = oracle(CALL, 500.0, 779, 1)[0]
    order = stop("s", bid - Decimal("0.05"), bid - Decimal("0.10"))
    low = minute_bar(1, (497.0, 497.0, 497.0, 497.0))
    state, events = run(monday({CALL: 1}), (minute_bar(0), ()), (at(1), (order,)), (low, ()))
    assert (fills(events), len(state.orders)) == ([], 1)
    _, events = run(state, (minute_bar(2), ()))
    assert fills(events) == [(oracle(CALL, 500.0, 778, 1)[0], 2, 1)]  # above its limit: where the bid is


def test_a_stop_of_more_than_a_minute_takes_goes_on_as_a_market_order() -> None:
    bid = oracle(CALL, 500.0, 779, 1)[0]
    state, events = run(
        monday({CALL: 60}), (minute_bar(0), ()), (at(1), (stop("s", bid, quantity=60),)), (minute_bar(1), ())
    )
    assert fills(events) == [(bid, 1, 50)]
    _, events = run(state, (minute_bar(2), ()))
    assert fills(events) == [(oracle(CALL, 500.0, 778, 1)[0], 2, 60)]
