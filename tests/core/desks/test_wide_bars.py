"""A desk of wide bars is flat over night, on a tape too, whose only moments are the closes of its bars."""

from __future__ import annotations

import msgspec
import pytest

from daemon.core.effects import AnyEffect, SubmitOrder
from daemon.core.events import BarClosed, QuotesReceived
from daemon.core.limits import Contracts, Execution, Risk, Sizing, Trading
from daemon.core.step import Core
from strategies.kit.contract import Bar
from tests.support.core.desk import (
    BUY_CALL,
    CALL,
    IDENTITY,
    MINUTE,
    MONDAY,
    Desk,
    Pointer,
    of,
    quote,
    sent,
)

CALM = Sizing(stop_loss=0.99, take_profit=9.0)


def wide_desk(bar_min: int, trading: Trading, mode: str) -> Desk:
    """An empty desk of bars of so many minutes."""

    class Wide(Pointer):
        spec = msgspec.structs.replace(Pointer.spec, bar_interval_s=60 * bar_min)

    d = Desk(trading, mode=mode)
    d.core = Core(Wide())
    d.state = d.core.start(msgspec.structs.replace(IDENTITY, mode=mode), trading)
    return d.fund().begin()


def wide_bar(d: Desk, minute: int, bar_min: int) -> list[AnyEffect]:
    """The bar that starts at `minute`, and its quotes."""
    start, end = d.at(minute), d.at(minute + bar_min)
    effects = d.put(BarClosed(end, Bar("SPY", start, 500.0, 500.0, 500.0, 500.0, 1000.0)))
    quotes = tuple(quote(symbol, at_ns=end) for symbol in d.state.watched)
    return [*effects, *d.put(QuotesReceived(end, start, quotes))]


@pytest.mark.parametrize("mode", ["replay", "live"])
@pytest.mark.parametrize(("bar_min", "leaves_min"), [(5, 380), (15, 375), (30, 360), (60, 360)])
def test_it_leaves_at_the_last_close_before_the_deadline(bar_min: int, leaves_min: int, mode: str) -> None:
    d = wide_desk(bar_min, Trading(sizing=CALM, risk=Risk(quote_age_max_s=3600, stale_bar_s=3600)), mode)
    wide_bar(d, 0, bar_min)
    order = sent(d.answer(BUY_CALL))
    d.accept(order.client_order_id)
    d.fill(order.client_order_id, order.quantity)
    exits_at, at_market = [], False
    for minute in range(bar_min, 390 - bar_min + 1, bar_min):
        exits = of(wide_bar(d, minute, bar_min), SubmitOrder)
        if d.state.ask is not None:
            d.answer(0)
        if exits:
            exits_at.append((minute + bar_min, exits[0].side, exits[0].symbol))
            at_market = exits[0].limit_price is None
            break
    assert exits_at == [(leaves_min, -1, CALL)]  # minutes after the open at 9:30; the deadline is 383: 15:53
    assert at_market == (mode == "replay" and leaves_min + bar_min >= 390)  # live a limit has minutes to be priced anew


@pytest.mark.parametrize("mode", ["replay", "live"])
@pytest.mark.parametrize(("flat_min", "at_market"), [(1, True), (2, False)])
def test_an_exit_that_cannot_be_priced_anew_before_the_close_goes_to_the_market(
    flat_min: int, at_market: bool, mode: str
) -> None:
    d = Desk(Trading(CALM, execution=Execution(flat_before_close_min=flat_min, flatten_lead_min=0)), mode=mode)
    d.fund().begin()
    d.holds()
    exits: list[SubmitOrder] = []
    for minute in range(1, 389):
        exits += of(d.bar(minute), SubmitOrder)
        if exits:
            break
    assert (d.state.now_ns, exits[0].limit_price is None) == (MONDAY.close_ns - flat_min * MINUTE, at_market)


def test_nothing_is_entered_once_positions_are_left() -> None:
    late = Trading(sizing=CALM, risk=Risk(no_entry_before_close_min=8, quote_age_max_s=3600, stale_bar_s=3600))
    d = wide_desk(60, late, "replay")
    wide_bar(d, 300, 60)  # closes at 15:30: an order would fill in the last bar, with no close after it
    assert of(d.answer(BUY_CALL), SubmitOrder) == []
    [row] = d.decisions()
    assert "near_close" in str(row.gates)


@pytest.mark.parametrize("mode", ["replay", "live"])
def test_a_contract_that_expires_today_leaves_although_every_minute_is_zero(mode: str) -> None:
    no_minutes = Execution(
        flat_before_close_min=0, flatten_lead_min=0, expiry_day_flat_min=0, expiry_day_no_entry_min=0
    )
    rules = Trading(CALM, Contracts(min_days=0), no_minutes, Risk(no_entry_before_close_min=0))
    d = Desk(rules, mode=mode)
    d.fund().begin(MONDAY, expiry=MONDAY.date)
    d.holds()
    [symbol] = d.held
    exits: list[SubmitOrder] = []
    for minute in range(1, 390):
        exits += of(d.bar(minute), SubmitOrder)
        if exits:
            break
    assert (exits[0].symbol, exits[0].side, d.state.now_ns) == (symbol, -1, MONDAY.close_ns - MINUTE)
