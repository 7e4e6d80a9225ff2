"""What a held option would fetch, for stops and loss limits, while its quotes are too wide to be prices.

Bought at 2.00 USD with the underlying at 500.00 and the stop at 1.40. Prices of the model are computed here, by the
error function alone: an at-the-money call is worth spot x (2 N(v / 2) - 1), with v the volatility of the time left.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from math import erf, log, sqrt

import pytest

from daemon.core.effects import CancelOrder, SubmitOrder
from daemon.core.events import ClockReset, ResumeRequested
from daemon.core.limits import Contracts, Risk, Sizing, Trading
from tests.support.core.desk import CALL, EXIT, Desk, alarms, desk, of, quote, sent

WIDE = [("0.60", "1.60"), ("0.30", "1.45"), ("0.05", "1.50"), ("0", "1.45")]
STOP_AT_140 = Trading(
    sizing=Sizing(stop_loss=0.30, take_profit=9.0), risk=Risk(daily_loss_max=0.5, drawdown_max=0.5, price_collar=0.2)
)
NO_STOP = Trading(sizing=Sizing(stop_loss=0.99, take_profit=9.0), risk=Risk(daily_loss_max=0.06))
SESSION_MIN = 390
FALLEN = 497.0


def normal(x: float) -> float:
    return (1.0 + erf(x / sqrt(2.0))) / 2.0


def call_price(spot: float, deviation: float, strike: float = 500.0) -> float:
    """Black and Scholes without interest; `deviation` is the volatility times the root of the time left."""
    first = log(spot / strike) / deviation + deviation / 2.0
    return spot * normal(first) - strike * normal(first - deviation)


def deviation_of(price: float) -> float:
    """The deviation at which a call at the money costs `price`."""
    low, high = 1e-6, 1.0
    for _ in range(80):
        middle = (low + high) / 2.0
        low, high = (middle, high) if call_price(500.0, middle) < price else (low, middle)
    return low


def holding(trading: Trading = STOP_AT_140, *, reload: bool = False) -> Desk:
    """A live desk that holds 9 calls bought at 2.00 and quoted 1.98 to 2.02 in minute 1."""
    d = desk(trading, mode="live")
    d.reload = reload
    d.holds()
    d.quotes(1, quote(CALL), second=10)
    return d


def minutes(d: Desk, first: int, last: int, bid: str, ask: str, spots: list[float]) -> list[SubmitOrder]:
    """Bars of these minutes, each closed and followed by the same wide quote; the last spot goes on. Returns orders."""
    for minute in range(first, last):
        spot = spots[min(minute - first, len(spots) - 1)]
        d.bar(minute, spot, quotes=(quote(CALL, bid, ask),))
        d.quotes(minute + 1, quote(CALL, bid, ask), second=20)
        d.tick(minute + 1, 40)
    return sales(d)


def sales(d: Desk) -> list[SubmitOrder]:
    return [order for order in of(d.effects, SubmitOrder) if order.side < 0]


# --- stops --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize(("bid", "ask"), WIDE)
def test_a_wide_quote_sells_nothing_while_the_underlying_stands_still(bid: str, ask: str, reload: bool) -> None:
    d = holding(reload=reload)
    assert minutes(d, 1, 181, bid, ask, [500.0]) == []
    assert (d.held, d.halted()) == ({CALL: 9}, "")
    assert alarms(d.effects).count("blind") == 1


@pytest.mark.parametrize("reload", [False, True])
@pytest.mark.parametrize(("bid", "ask"), WIDE)
def test_a_wide_quote_does_not_shut_the_stop_when_the_underlying_falls(bid: str, ask: str, reload: bool) -> None:
    d = holding(reload=reload)
    assert call_price(FALLEN, deviation_of(2.0)) < 1.40  # nobody would pay the stop's price any more
    [order, *_] = minutes(d, 1, 12, bid, ask, [499.0, 498.0, FALLEN])
    assert (order.symbol, order.quantity, order.intent) == (CALL, 9, "sell_to_close")
    assert [row.action for row in d.decisions() if row.kind == "rule"] == ["stop_loss"]


def test_a_wide_quote_does_not_shut_the_stop_after_the_desk_s_time_was_led_back() -> None:
    d = holding()
    d.quotes(31, quote(CALL))  # the host's clock was half an hour ahead
    d.put(ClockReset(d.at(2), "chrony was wrong", "ann"))
    [order, *_] = minutes(d, 2, 12, *WIDE[0], [499.0, 498.0, FALLEN])
    assert (order.symbol, order.quantity) == (CALL, 9)
    assert [row.action for row in d.decisions() if row.kind == "rule"] == ["stop_loss"]


@pytest.mark.parametrize(("bid", "ask"), WIDE[:3])
def test_an_exit_by_the_stop_ends_at_the_market_where_somebody_bids(bid: str, ask: str) -> None:
    d = holding()
    minutes(d, 1, 5, bid, ask, [499.0, 498.0, FALLEN])
    orders = sales(d)
    for minute in (7, 9, 11):
        d.accept(orders[-1].client_order_id)
        d.bar(minute, FALLEN, quotes=(quote(CALL, bid, ask),))
        orders += of(d.canceled(orders[-1].client_order_id), SubmitOrder)
    assert orders[-1].limit_price is None


@pytest.mark.parametrize(("rules", "rule"), [(STOP_AT_140, "stop_loss"), (NO_STOP, "daily_loss")])
def test_an_exit_that_waits_for_a_better_price_is_taken_over_by_the_stop_and_by_the_loss_limit(
    rules: Trading, rule: str
) -> None:
    d = holding(rules)
    minutes(d, 1, 3, "0.60", "1.60", [500.0])
    d.bar(3, 500.0, quotes=(quote(CALL, "0.60", "1.60"),))
    orders = [sent(d.answer(EXIT))]
    for minute, spot in enumerate((499.0, 498.0, FALLEN, FALLEN, FALLEN, FALLEN), 4):
        d.accept(orders[-1].client_order_id)
        d.bar(minute, spot, quotes=(quote(CALL, "0.60", "1.60"),))
        d.quotes(minute + 1, quote(CALL, "0.60", "1.60"), second=20)
        if d.state.orders[orders[-1].client_order_id].cancel_asked_ns:
            orders += of(d.canceled(orders[-1].client_order_id), SubmitOrder)
    assert [row.action for row in d.decisions() if row.kind == "rule"] == [rule]
    assert orders[-1].limit_price is None  # somebody bids 0.60


def test_an_exit_that_nobody_bids_for_waits_at_what_the_option_would_fetch() -> None:
    d = holding()
    orders = minutes(d, 1, 6, "0", "1.45", [499.0, 498.0])
    priced = orders[0].limit_price
    worth = call_price(498.0, deviation_of(2.0))  # 1.17: below the stop
    assert priced is not None
    assert worth * 0.8 - 0.05 <= float(priced) <= worth  # less the collar of 20 %, and a little time
    assert "no_bid" in alarms(d.effects)


def test_one_quote_of_nothing_to_twenty_changes_nothing() -> None:
    d = holding()
    before = d.state.book.equity
    assert d.quotes(1, quote(CALL, "0", "20"), second=20) == []
    d.quotes(1, quote(CALL), second=21)
    d.bar(1, 500.0, quotes=(quote(CALL),))
    assert (d.held, d.halted(), d.state.book.equity, alarms(d.effects)) == ({CALL: 9}, "", before, [])


def test_one_narrow_quote_below_the_stop_sells_nothing_and_a_second_one_a_second_later_sells() -> None:
    d = holding()
    assert d.quotes(1, quote(CALL, "1.36", "1.42"), second=20) == []  # its mid of 1.39 leaps from 2.00
    assert sent(d.quotes(1, quote(CALL, "1.36", "1.42"), second=21)).side == -1


def test_the_bid_of_narrow_quotes_is_what_the_stop_looks_at() -> None:
    d = holding()
    for second, bid, ask in [(20, "1.75", "1.85"), (22, "1.75", "1.85"), (24, "1.55", "1.65"), (26, "1.55", "1.65")]:
        assert of(d.quotes(1, quote(CALL, bid, ask), second=second), SubmitOrder) == []
    assert of(d.quotes(1, quote(CALL, "1.38", "1.48"), second=28), SubmitOrder) == []
    order = sent(d.quotes(1, quote(CALL, "1.38", "1.48"), second=30))  # the mid is 1.43, above the stop
    assert (order.side, order.quantity) == (-1, 9)


def test_a_split_of_the_underlying_is_no_fall_of_the_option() -> None:
    d = holding()
    assert minutes(d, 1, 8, "0.60", "1.60", [500.0, 250.0]) == []  # 2 for 1; a leap that later bars confirm
    assert d.state.session.spot == 250.0
    assert (d.held, d.halted()) == ({CALL: 9}, "")


# --- loss limits ----------------------------------------------------------------------------------------------------


def test_the_loss_limits_see_what_the_position_would_fetch() -> None:
    d = holding(NO_STOP)
    minutes(d, 1, 4, "0.05", "1.50", [500.0])
    assert (d.halted(), d.state.marks[CALL]) == ("", Decimal("1.50"))  # 450 of 10,000 USD: below 6 %
    minutes(d, 4, 10, "0.05", "1.50", [499.0, 498.0, FALLEN])
    assert (d.halted(), d.state.marks[CALL]) == ("daily_loss", Decimal("1.50"))  # about 1,100 USD


def test_a_reset_of_the_limits_counts_from_what_the_positions_would_fetch() -> None:
    d = holding(NO_STOP)
    minutes(d, 1, 10, "0.05", "1.50", [499.0, 498.0, FALLEN])
    now = d.state.now_ns
    d.put(ResumeRequested(now, "op", "seen"))
    assert d.halted() == "daily_loss"
    d.put(ResumeRequested(now, "op", "seen", reset_limits=True))
    minutes(d, 10, 13, "0.05", "1.50", [FALLEN])
    assert d.halted() == ""


# --- exits while the underlying stands still -------------------------------------------------------------------------


@pytest.mark.parametrize(("bid", "ask"), WIDE)
def test_other_exits_wait_at_the_model_s_price_less_the_collar(bid: str, ask: str) -> None:
    d = holding()
    minutes(d, 1, 3, bid, ask, [500.0])
    d.bar(3, 500.0, quotes=(quote(CALL, bid, ask),))
    orders = [sent(d.answer(EXIT))]
    for minute in range(5, 15, 2):
        d.accept(orders[-1].client_order_id)
        d.bar(minute, 500.0, quotes=(quote(CALL, bid, ask),))
        orders += of(d.canceled(orders[-1].client_order_id), SubmitOrder)
    assert len(orders) == 6
    time_part = sqrt((2 * SESSION_MIN - 16) / (2 * SESSION_MIN))  # at least, of the deviation; a night counts too
    lowest = call_price(500.0, deviation_of(2.0) * time_part) * 0.8
    for order in orders:
        assert order.limit_price is not None
        assert lowest - 0.02 <= float(order.limit_price) <= 2.0


def without_quotes(d: Desk, *, bars: bool) -> list[SubmitOrder]:
    """An exit of the policy in minute 13, ten minutes after the last quote, and its orders until minute 28."""
    for minute in range(1, 3):
        d.bar(minute, 500.0, quotes=(quote(CALL),))
    for minute in range(3, 13):
        d.bar(minute, 500.0, quotes=())
    orders = of(d.answer(EXIT), SubmitOrder)
    for minute in range(13, 28):
        for order in tuple(d.state.orders.values()):
            if not order.known:
                d.accept(order.client_order_id)
            if order.cancel_asked_ns:
                orders += of(d.canceled(order.client_order_id), SubmitOrder)
        orders += of(d.bar(minute, 500.0, quotes=()) if bars else d.tick(minute + 1, 5), SubmitOrder)
    return orders


def test_an_exit_whose_quotes_are_old_asks_for_the_model_s_price_less_the_collar() -> None:
    """At the market it met whatever was bid: nothing tells how wide the quotes are by now."""
    orders = without_quotes(holding(), bars=True)
    assert orders
    time_part = sqrt((2 * SESSION_MIN - 29) / (2 * SESSION_MIN))
    lowest = call_price(500.0, deviation_of(2.0) * time_part) * 0.8
    for order in orders:
        assert order.limit_price is not None
        assert lowest - 0.02 <= float(order.limit_price) <= 2.0 * 0.8 + 0.05


def test_an_exit_that_knows_neither_quotes_nor_the_underlying_s_price_goes_to_the_market() -> None:
    orders = without_quotes(holding(), bars=False)
    assert orders[0].limit_price is not None
    assert orders[-1].limit_price is None


def test_an_exit_at_the_price_that_the_next_one_would_have_keeps_its_place_until_somebody_bids_it() -> None:
    """A call that is worth nothing any more, offered at a cent by a stop of 99 %."""
    d = holding(replace(NO_STOP, risk=Risk(daily_loss_max=0.9, drawdown_max=0.9)))
    for minute in range(1, 90):
        d.bar(minute, max(500.0 - minute, 475.0), quotes=(quote(CALL, "0", "0.30"),))
        for order in tuple(d.state.orders.values()):
            if order.cancel_asked_ns:
                d.canceled(order.client_order_id)
        for order in tuple(d.state.orders.values()):
            if not order.known:
                d.accept(order.client_order_id)
    orders = sales(d)
    attempts = Trading().execution.exit_limit_attempts
    assert [str(order.limit_price) for order in orders] == ["0.01"] * attempts
    assert [order.client_order_id for order in d.state.orders.values()] == [orders[-1].client_order_id]
    effects = d.quotes(90, quote(CALL, "0.01", "0.30"), second=1) + d.quotes(90, quote(CALL, "0.01", "0.30"), second=70)
    assert orders[-1].client_order_id in [effect.client_order_id for effect in of(effects, CancelOrder)]


@pytest.mark.parametrize(("bid", "ask"), WIDE[:3])
def test_a_contract_of_today_waits_too_until_it_has_to_leave(bid: str, ask: str) -> None:
    today = "SPY240701C00500000"
    no_stop = replace(STOP_AT_140, sizing=Sizing(stop_loss=0.99, take_profit=9.0), contracts=Contracts(min_days=0))
    d = Desk(no_stop, mode="live").fund().begin(expiry="2024-07-01")
    d.holds()
    d.quotes(1, quote(today), second=10)
    assert d.held == {today: 9}
    wide = quote(today, bid, ask)
    for minute in (1, 2, 3):
        d.bar(minute, 500.0, quotes=(wide,))
        d.quotes(minute + 1, wide, second=20)
    d.bar(4, 500.0, quotes=(wide,))
    orders = [sent(d.answer(EXIT))]
    for minute in range(6, SESSION_MIN, 2):
        d.accept(orders[-1].client_order_id)
        d.bar(minute, 500.0, quotes=(wide,))
        orders += of(d.canceled(orders[-1].client_order_id), SubmitOrder)
        if orders[-1].limit_price is None:
            break
    assert len(orders) > 100
    assert (
        SESSION_MIN - 62 <= minute + 1 < SESSION_MIN - 55
    )  # to be flat an hour before the close, and begun 2 min earlier
