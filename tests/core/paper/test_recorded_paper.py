"""Orders against recorded quotes, by hand to the cent: the next minute's, and a modelled price where it has none.

Fees here: 0.03 + 0.02 a contract, 0.01 more a contract sold, 0.0001 of the proceeds of sales; rounded up to the cent.
"""

from __future__ import annotations

import math
from decimal import Decimal

import msgspec

from daemon.core.effects import CancelOrder, Effect, SubmitOrder
from daemon.core.events import (
    BarClosed,
    CancelRejected,
    Contract,
    ContractsListed,
    Event,
    OrderFilled,
    Quote,
    QuotesReceived,
    SessionScheduled,
)
from daemon.core.limits import Paper, Trading
from daemon.core.paper.quotes import RecordedPaperBroker
from daemon.core.paper.state import RecordedState
from strategies.kit.contract import Bar, Session
from strategies.kit.quantity import Quantity

MINUTE = 60_000_000_000
DAY = 1440 * MINUTE
MONDAY = Session("2024-07-01", DAY, DAY + 390 * MINUTE)
TUESDAY = Session("2024-07-02", 2 * DAY, 2 * DAY + 390 * MINUTE)
CALL = "SPY240702C00500000"
TRADING = Trading(
    paper=Paper(orf_usd=Decimal("0.03"), occ_usd=Decimal("0.02"), taf_usd=Decimal("0.01"), sec_rate=Decimal("0.0001"))
)
BROKER = RecordedPaperBroker(TRADING, "SPY")
VOLATILITY = 0.20


def monday(volatility: float | None = VOLATILITY) -> RecordedState:
    """Monday with one call listed, which expires on Tuesday."""
    listed = ContractsListed(DAY, MONDAY.date, (Contract(CALL, TUESDAY.date, 1, Decimal(500), 100),), volatility)
    return after(BROKER.start(), (SessionScheduled(DAY, MONDAY, (TUESDAY,)), ()), (listed, ()))[0]


def after(state: RecordedState, *steps: tuple[Event, tuple[Effect, ...]]) -> tuple[RecordedState, list[Event]]:
    """The state after these events, and the news; each state is written and read again between them."""
    news: list[Event] = []
    for event, effects in steps:
        read = msgspec.json.decode(msgspec.json.encode(state), type=RecordedState)
        assert read == state
        next_state, events = BROKER.step(read, event, effects)
        assert isinstance(next_state, RecordedState)
        state = next_state
        news.extend(events)
    return state, news


def minute(number: int, close: float = 500.0, *sides: tuple[str, str]) -> list[tuple[Event, tuple[Effect, ...]]]:
    """The bar that ends `number` minutes after the open, and the quotes of the call at its end."""
    end, start = DAY + number * MINUTE, DAY + (number - 1) * MINUTE
    quotes = tuple(Quote(CALL, Decimal(bid), Decimal(ask), Decimal(bid), Decimal(ask), end) for bid, ask in sides)
    bar = Bar("SPY", start, 500.0, 510.0, 490.0, close, 1.0)
    return [(BarClosed(end, bar), ()), (QuotesReceived(end, start, quotes), ())]


def with_effects(
    steps: list[tuple[Event, tuple[Effect, ...]]], *effects: Effect
) -> list[tuple[Event, tuple[Effect, ...]]]:
    """The same steps; the desk answers the last one with these effects."""
    return [*steps[:-1], (steps[-1][0], effects)]


def buy(name: str = "a", limit: str | None = "9.00", quantity: int = 2) -> SubmitOrder:
    price = None if limit is None else Decimal(limit)
    return SubmitOrder(name, CALL, 1, quantity, price, "buy_to_open", 2**62)


def sell(name: str = "b", limit: str | None = "0.01", quantity: int = 2) -> SubmitOrder:
    price = None if limit is None else Decimal(limit)
    return SubmitOrder(name, CALL, -1, quantity, price, "sell_to_close", 2**62)


def fills(news: list[Event]) -> list[tuple[str, Decimal, Quantity, int]]:
    """(client order id, price, cumulative quantity, minutes after the open) of every fill."""
    return [
        (e.client_order_id, e.price, e.cumulative_quantity, (e.filled_ns - DAY) // MINUTE)
        for e in news
        if isinstance(e, OrderFilled)
    ]


def modelled(spot: float, minutes_left: int) -> float:
    """Black-Scholes value of the call with one night to its expiry, r = q = 0, by the rule of docs/PAPER.md."""
    years = ((minutes_left + 390) * 0.54 / 390 + 0.46) / 252
    width = VOLATILITY * math.sqrt(years)
    d1 = math.log(spot / 500) / width + width / 2
    return spot * 0.5 * (1 + math.erf(d1 / math.sqrt(2))) - 500 * 0.5 * (1 + math.erf((d1 - width) / math.sqrt(2)))


def test_an_order_fills_at_the_next_minutes_ask_and_bid_never_at_the_known_quote() -> None:
    state, news = after(monday(), *with_effects(minute(1, 500.0, ("2.00", "2.10")), buy()))
    assert fills(news) == []
    state, news = after(state, *with_effects(minute(2, 500.0, ("2.20", "2.35")), sell()))
    assert fills(news) == [("a", Decimal("2.35"), 2, 2)]  # 2 x 2.35 x 100 + 2 x 0.05 of fees
    assert state.cash == Decimal(10000) - Decimal("470.10")
    state, news = after(state, *minute(3, 500.0, ("1.80", "1.95")))
    assert fills(news) == [("b", Decimal("1.80"), 2, 3)]
    # 360 of proceeds; 2 x 0.06 + 0.036 = 0.156 of fees, 0.16
    assert state.cash == Decimal("9529.90") + Decimal("359.84")
    assert (state.fills_recorded, state.fills_modelled) == (2, 0)


def test_a_limit_beyond_the_next_quote_waits_although_the_minute_traded_through_it() -> None:
    state, _ = after(monday(), *with_effects(minute(1, 500.0, ("2.00", "2.10")), buy(limit="2.10")))
    state, news = after(state, *minute(2, 500.0, ("2.20", "2.35")), *minute(3, 500.0, ("1.90", "2.05")))
    assert fills(news) == [("a", Decimal("2.05"), 2, 3)]


def test_a_minute_without_a_quote_fills_at_the_models_price_of_its_close_and_counts() -> None:
    state, _ = after(monday(), *with_effects(minute(1, 500.0, ("2.00", "2.10")), buy(limit=None)))
    state, news = after(state, *with_effects(minute(2, 501.0), sell(limit=None)))
    value = modelled(501.0, 388)
    ask = Decimal(math.ceil(value * 1.004 * 100)).scaleb(-2)
    assert fills(news) == [("a", ask, 2, 2)]
    state, news = after(state, *minute(3, 499.0))
    value = modelled(499.0, 387)
    bid = Decimal(math.floor(value * 0.996 * 100)).scaleb(-2)
    assert fills(news) == [("b", bid, 2, 3)]
    assert (state.fills_recorded, state.fills_modelled) == (0, 2)


def test_the_models_price_respects_the_limit() -> None:
    state, _ = after(monday(), *with_effects(minute(1, 500.0, ("2.00", "2.10")), buy(limit="2.10")))
    _, news = after(state, *minute(2, 501.0))
    assert fills(news) == []  # the model asks for 4.94


def test_without_a_volatility_nothing_is_modelled() -> None:
    state, _ = after(monday(None), *with_effects(minute(1, 500.0, ("2.00", "2.10")), buy(limit=None)))
    state, news = after(state, *minute(2, 501.0), *minute(3, 501.0, ("2.40", "2.50")))
    assert fills(news) == [("a", Decimal("2.50"), 2, 3)]
    assert (state.fills_recorded, state.fills_modelled) == (1, 0)


def test_a_quote_without_that_side_is_no_missing_quote() -> None:
    state, _ = after(monday(), *with_effects(minute(1, 500.0, ("2.00", "2.10")), buy()))
    state, _ = after(state, *with_effects(minute(2, 500.0, ("2.00", "2.10")), sell(limit=None)))
    state, news = after(state, *minute(3, 500.0, ("0", "0.05")))
    assert fills(news) == []
    assert state.fills_modelled == 0


def test_an_order_sent_during_the_minute_waits_for_a_whole_one() -> None:
    state, _ = after(monday(), *minute(1, 500.0, ("2.00", "2.10")))
    bar, quotes = minute(2, 500.0)
    state, news = after(state, (bar[0], (buy(limit=None),)), quotes)
    assert fills(news) == []  # it was sent at the minute's end
    _, news = after(state, *minute(3, 500.0))
    assert [fill[2:] for fill in fills(news)] == [(2, 3)]


def test_nothing_is_modelled_at_the_close() -> None:
    state, _ = after(monday(), *with_effects(minute(389, 500.0, ("2.00", "2.10")), buy(limit=None)))
    _, news = after(state, *minute(390, 500.0))
    assert fills(news) == []


def test_the_market_of_a_session_ends_with_it() -> None:
    state = monday()
    assert state.market is not None
    state, _ = after(state, (SessionScheduled(2 * DAY, TUESDAY, ()), ()))
    assert state.market is None
    assert state.listed_for == "2024-07-01"


def test_a_cancel_at_the_fills_own_minute_comes_too_late() -> None:
    first = with_effects(minute(1, 500.0, ("2.00", "2.10")), buy())
    state, news = after(monday(), *first, *with_effects(minute(2, 500.0, ("2.00", "2.12")), CancelOrder("a")))
    assert fills(news) == [("a", Decimal("2.12"), 2, 2)]
    assert [type(event) for event in news][-1] is CancelRejected
    assert state.closed_bar_ns == DAY + MINUTE
