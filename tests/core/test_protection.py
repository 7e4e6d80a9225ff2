"""Stops that rest at the broker: one below all that is held, never in the way of a sale or a buy, never a short sale.

The desk is `tests.support.core.two_shares`: it bought ten shares of each symbol at 100 USD. With its own stop at 30 %
and a distance of 1.5 the broker's is 45 % below: 55 USD.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal

import pytest
from msgspec import structs

from daemon.app.live.desk import settled
from daemon.brokers.alpaca.assemble import quoted_symbols
from daemon.core import events as ev
from daemon.core.effects import AnyEffect, AskPolicy, CancelOrder, SubmitOrder
from daemon.core.limits import Protection
from daemon.core.orders import ACCEPTED
from daemon.core.paper.shares import SharePaperBroker
from strategies.kit.contract import Bar
from tests.support.core.daily_desk import KEEP, LAST_FRIDAY
from tests.support.core.daily_desk import bar as daily_bar
from tests.support.core.desk import CALL, MINUTE, MONDAY, SESSIONS, TUESDAY, of, quote
from tests.support.core.resting import (
    LIMITED,
    MONDAY_S,
    RESTS,
    STOP,
    MoreShares,
    alarms,
    daily,
    holding_calls,
    left,
    protected,
    sales,
    stops,
    working_sells,
)
from tests.support.core.two_shares import RULES, SYMBOLS, Desk, TwoShares
from training.evaluate.machine import started


def test_a_stop_rests_below_all_that_is_held_until_it_is_cancelled() -> None:
    desk = Desk(RESTS)
    desk.minute(0)
    effects = desk.answer(1.0, 1.0)
    later: list[AnyEffect] = []
    for order in of(effects, SubmitOrder):
        desk.account.take(order, desk.state.now_ns)
        later += desk.put(desk.account.fill(order.client_order_id, 10, "100", desk.state.now_ns))
    later += desk.tick(1, 2)
    rested = stops(later)
    assert [(s.symbol, s.side, s.quantity, s.limit_price, s.stop_price) for s in rested] == [
        (symbol, -1, 10, None, STOP) for symbol in SYMBOLS
    ]
    assert stops(desk.tick(1, 3) + desk.minute(1)) == []  # one is enough


def test_without_the_rule_nothing_rests() -> None:
    desk = Desk(RULES)
    desk.holds()
    assert left(desk) == stops(desk.tick(1, 5) + desk.minute(1)) == []


def test_a_partly_filled_buy_is_covered_only_once_it_has_ended() -> None:
    desk = Desk(RESTS)
    desk.minute(0)
    first, second = of(desk.answer(1.0, 1.0), SubmitOrder)
    desk.account.take(first, desk.state.now_ns)
    desk.account.take(second, desk.state.now_ns)
    desk.put(desk.account.fill(first.client_order_id, 4, "100", desk.state.now_ns))
    assert stops(desk.tick(1, 5)) == []  # the broker refuses a sale against a working buy
    desk.put(desk.account.fill(first.client_order_id, 6, "100", desk.state.now_ns))
    assert [(s.symbol, s.quantity) for s in stops(desk.tick(1, 10))] == [(first.symbol, 10)]


def test_a_sale_takes_the_stop_away_and_waits_for_its_end() -> None:
    desk, names = protected()
    desk.minute(1)
    effects = desk.answer(-1.0, 1.0)
    assert [e.client_order_id for e in of(effects, CancelOrder)] == [names["SPY"]]
    assert sales(effects + desk.tick(2, 3)) == []
    desk.account.end(names["SPY"])
    effects = desk.put(ev.OrderCanceled(desk.at(2, 4), names["SPY"]))
    effects += desk.put(desk.account.report(desk.at(2, 4.5))) + desk.tick(2, 5)
    assert [(order.symbol, order.quantity) for order in sales(effects)] == [("SPY", 10)]
    assert working_sells(desk, "SPY") == 10
    assert stops(effects) == []
    assert names["QQQ"] in desk.state.orders  # the other one rests on


def test_a_stop_that_sold_while_the_daemon_was_down_is_booked_at_its_price_and_named() -> None:
    desk, names = protected()
    cash = desk.state.book.cash
    desk.account.fill(names["SPY"], 10, "54.50", desk.at(30))
    desk.put(ev.RunStarted(desk.at(60), "live", "d", "share_bars", "e1", "c", "sip", RESTS))
    report = desk.account.report(desk.at(60, 1))
    step = desk.core.step(desk.state, report)
    desk.state = step.state
    assert "SPY" not in desk.state.book.positions
    assert desk.state.book.cash == cash + 545
    moves = [row for row in step.rows if type(row).__name__ == "MoveRow"]
    assert [(row.reason, row.quantity) for row in moves] == [("resting_stop", -10)]  # type: ignore[union-attr]
    assert (desk.halted(), desk.state.risk.reconciled) == ("", True)
    assert desk.state.orders[names["QQQ"]].status == ACCEPTED


def test_a_stop_that_sells_while_its_cancel_is_on_its_way_leaves_nothing_to_sell() -> None:
    desk, names = protected()
    desk.minute(1)
    desk.answer(-1.0, 1.0)
    effects = desk.put(desk.account.fill(names["SPY"], 10, "55", desk.at(2, 3)))
    effects += desk.put(ev.CancelRejected(desk.at(2, 4), names["SPY"], "already filled"))
    effects += desk.put(desk.account.report(desk.at(2, 5))) + desk.tick(2, 10) + desk.tick(3, 30)
    assert sales(effects) == []
    assert stops(effects) == []
    assert "SPY" not in desk.state.book.positions
    assert desk.state.works == {}


def test_a_stop_that_sells_a_part_while_its_cancel_is_on_its_way_leaves_the_rest_to_the_sale() -> None:
    desk, names = protected()
    desk.minute(1)
    desk.answer(-1.0, 1.0)
    desk.put(desk.account.fill(names["SPY"], 4, "55", desk.at(2, 3)))
    desk.account.end(names["SPY"])
    effects = desk.put(ev.OrderCanceled(desk.at(2, 4), names["SPY"]))
    effects += desk.put(desk.account.report(desk.at(2, 5))) + desk.tick(2, 6)
    assert [order.quantity for order in sales(effects)] == [6]


def test_a_sale_that_is_refused_is_covered_again_and_comes_back_later() -> None:
    desk, names = protected()
    desk.minute(1)
    desk.answer(-1.0, 1.0)
    desk.account.end(names["SPY"])
    effects = desk.put(ev.OrderCanceled(desk.at(2, 4), names["SPY"]), desk.account.report(desk.at(2, 4.5)))
    (sale,) = sales(effects + desk.tick(2, 5))
    rested: list[AnyEffect] = desk.put(ev.OrderRejected(desk.at(2, 6), sale.client_order_id, "not now"))
    for second in range(7, 60, 5):
        rested += desk.tick(2, second)
    assert stops(rested) == []
    for second in range(0, 60, 5):
        again = desk.put(ev.QuotesReceived(desk.at(3, second), 0, (desk.quote("SPY", desk.at(3, second)),)))
        again += desk.tick(3, second + 1)
        rested += again
        desk.take([*stops(again), *sales(again)])
        assert working_sells(desk, "SPY") <= 10
    assert [order.quantity for order in [*stops(rested), *sales(rested)]] == [10]


def test_shares_that_are_gone_leave_no_stop_behind() -> None:
    desk, names = protected()
    desk.account.positions.pop("SPY")
    effects = desk.put(
        ev.AcceptBrokerRequested(desk.at(2), "sold by hand", "ann"), desk.account.report(desk.at(2, 1))
    ) + desk.tick(2, 5)
    assert "SPY" not in desk.state.book.positions
    assert names["SPY"] in {effect.client_order_id for effect in of(effects, CancelOrder)}


def test_a_stop_that_others_take_away_rests_again_and_the_third_time_halts() -> None:
    desk, names = protected()
    name = names["SPY"]
    for round_ in range(3):
        minute = 2 + 3 * round_
        desk.account.end(name)
        effects = desk.put(ev.OrderCanceled(desk.at(minute), name), desk.account.report(desk.at(minute, 1)))
        assert ("stop_removed" in alarms(effects)) is (round_ < 2)
        assert stops(desk.tick(minute, 30)) == []
        if round_ < 2:
            (again,) = stops(desk.minute(minute + 1))
            assert again.client_order_id != name
            (name,) = desk.take([again])
    assert "foreign_order" in desk.halted()


def test_after_the_third_cancel_a_stop_rests_again_ten_minutes_later_though_the_desk_is_halted() -> None:
    """The broker itself may have cancelled them, as in a halt of the exchange; its word for it is the same."""
    desk, names = protected()
    name = names["SPY"]
    for minute in (2, 5, 8):
        desk.account.end(name)
        desk.put(ev.OrderCanceled(desk.at(minute), name), desk.account.report(desk.at(minute, 1)))
        if minute < 8:
            (name,) = desk.take([*stops(desk.minute(minute + 1))])
    assert "foreign_order" in desk.halted()
    waited = [effect for minute in range(8, 17) for effect in desk.minute(minute)]
    assert (stops(waited), "unprotected" in alarms(waited)) == ([], True)
    (again,) = stops(desk.minute(17))
    assert (again.symbol, again.quantity, again.stop_price) == ("SPY", 10, STOP)
    desk.take([again])
    assert stops([effect for minute in range(18, 30) for effect in desk.minute(minute)]) == []


def test_a_stop_that_is_refused_is_tried_each_minute_and_counts_for_no_rate_of_rejections() -> None:
    desk = Desk(RESTS)
    desk.holds()
    outcomes = desk.state.risk.outcomes
    names = {order.client_order_id for order in left(desk)}
    assert len(names) == len(SYMBOLS)
    for name in names:
        desk.put(ev.OrderRejected(desk.at(1, 6), name, "stop price too near"))
    assert stops(desk.tick(1, 30)) == []
    quotes = tuple(desk.quote(symbol, desk.at(2, 6)) for symbol in SYMBOLS)
    again = stops(desk.put(ev.QuotesReceived(desk.at(2, 7), 0, quotes)))
    assert [order.symbol for order in again] == list(SYMBOLS)
    assert names.isdisjoint(order.client_order_id for order in again)
    assert desk.state.risk.outcomes == outcomes


def test_a_price_at_the_stop_rests_none_and_says_so() -> None:
    desk = Desk(RESTS)
    desk.minute(0)
    for order in of(desk.answer(1.0, 1.0), SubmitOrder):
        desk.account.take(order, desk.state.now_ns)
        desk.put(desk.account.fill(order.client_order_id, 10, "200", desk.state.now_ns))  # the market is at 100: 110
    assert stops(desk.tick(1, 5)) == []
    effects = [effect for minute in (2, 3, 4) for effect in desk.tick(minute, 5)]
    assert stops(effects) == []
    assert "unprotected" in alarms(effects) or desk.state.works  # unless the desk's own stop is leaving already


def test_after_a_restart_the_same_stops_rest() -> None:
    desk, names = protected()
    desk.put(ev.RunStarted(desk.at(3), "live", "d", "share_bars", "e1", "c", "sip", RESTS))
    effects = desk.put(desk.account.report(desk.at(3, 1))) + desk.tick(3, 5) + desk.minute(3)
    assert (stops(effects), of(effects, CancelOrder)) == ([], [])
    assert set(names.values()) == set(desk.state.orders)


def test_where_the_rule_is_switched_off_they_end() -> None:
    desk, names = protected()
    desk.put(ev.RunStarted(desk.at(3), "live", "d", "share_bars", "e1", "c", "sip", RULES))
    effects = desk.put(desk.account.report(desk.at(3, 1))) + desk.tick(3, 5)
    assert {effect.client_order_id for effect in of(effects, CancelOrder)} == set(names.values())


def test_a_stop_whose_answer_is_unknown_is_looked_up_and_sent_again_under_its_name() -> None:
    desk = Desk(RESTS)
    desk.holds()
    first, _ = left(desk)
    desk.put(ev.OrderUnknown(desk.at(1, 6), first.client_order_id))
    assert stops(desk.tick(1, 10)) == []  # none beside one that may rest
    (again,) = stops(desk.put(ev.OrderMissing(desk.at(1, 12), first.client_order_id)))
    assert (again.client_order_id, again.stop_price) == (first.client_order_id, STOP)


def test_a_stop_that_never_arrived_keeps_no_sale_back() -> None:
    desk = Desk(RESTS)
    desk.holds()
    first, _ = left(desk)
    desk.put(ev.OrderUnknown(desk.at(1, 6), first.client_order_id))
    desk.put(ev.FlattenRequested(desk.at(1, 7), "out", "ann"))
    quotes = tuple(desk.quote(symbol, desk.at(1, 8)) for symbol in SYMBOLS)
    effects = desk.put(ev.QuotesReceived(desk.at(1, 8), 0, quotes))
    assert [order for order in sales(effects) if order.symbol == first.symbol] == []  # it may be there
    effects = desk.put(ev.OrderMissing(desk.at(1, 12), first.client_order_id)) + desk.tick(1, 13) + desk.tick(1, 14)
    assert [(order.symbol, order.quantity) for order in sales(effects)] == [(first.symbol, 10)]


def test_a_clean_stop_leaves_them_at_the_broker() -> None:
    desk, names = protected()
    effects = desk.put(ev.StopRequested(desk.at(2), "SIGTERM", flatten=False))
    assert of(effects, CancelOrder) == []
    assert settled(desk.state, flatten=False)
    assert set(names.values()) == set(desk.state.orders)


def test_a_cancel_that_never_ends_keeps_no_sale_back() -> None:
    desk, names = protected()
    desk.put(ev.FlattenRequested(desk.at(2), "out", "ann"))
    leaving: list[SubmitOrder] = []
    for second in range(1, 400, 3):
        quotes = tuple(desk.quote(symbol, desk.at(2, second)) for symbol in SYMBOLS)
        leaving += sales(desk.put(ev.QuotesReceived(desk.at(2, second), 0, quotes)))
        leaving += sales(desk.put(desk.account.report(desk.at(2, second + 1))))
    assert {(order.symbol, order.closing) for order in leaving} >= {(symbol, True) for symbol in SYMBOLS}
    assert set(names.values()) <= set(desk.state.orders)


def test_a_buy_of_more_takes_the_stop_away_and_one_for_all_rests_afterwards() -> None:
    desk, names = protected()
    desk.core = desk.core.__class__(MoreShares())
    desk.minute(1)
    effects = desk.answer(15.0, 10.0)
    assert [effect.client_order_id for effect in of(effects, CancelOrder)] == [names["SPY"]]
    assert of(effects, SubmitOrder) == []
    desk.account.end(names["SPY"])
    effects = desk.put(ev.OrderCanceled(desk.at(2, 3), names["SPY"])) + desk.tick(2, 4)
    (buy,) = of(effects, SubmitOrder)
    assert (buy.symbol, buy.side, buy.quantity) == ("SPY", 1, 5)
    desk.take([buy])
    desk.put(desk.account.fill(buy.client_order_id, 5, "100", desk.at(2, 5)))
    rested = stops(desk.put(desk.account.report(desk.at(2, 6))) + desk.tick(2, 10))
    assert [(order.symbol, order.quantity) for order in rested] == [("SPY", 15)]


def test_a_buy_waits_for_the_end_of_a_stop_whose_cancel_stays_unanswered() -> None:
    """The broker refuses it meanwhile, and a buy that was refused is given up."""
    desk, names = protected()
    desk.core = desk.core.__class__(MoreShares())
    desk.minute(1)
    effects = desk.answer(15.0, 10.0)
    for second in range(5, 60, 5):
        quotes = tuple(desk.quote(symbol, desk.at(2, second)) for symbol in SYMBOLS)
        effects += desk.put(ev.QuotesReceived(desk.at(2, second), 0, quotes))
    assert of(effects, SubmitOrder) == []
    assert {effect.client_order_id for effect in of(effects, CancelOrder)} == {names["SPY"]}
    desk.account.end(names["SPY"])
    effects = desk.put(ev.OrderCanceled(desk.at(2, 60), names["SPY"])) + desk.tick(2, 61)
    assert [(order.symbol, order.side, order.quantity) for order in of(effects, SubmitOrder)] == [("SPY", 1, 5)]


def test_a_buy_that_a_gate_denies_leaves_the_stop_where_it_is() -> None:
    desk, names = protected()
    desk.core = desk.core.__class__(MoreShares())
    desk.minute(1)
    desk.put(ev.PauseRequested(desk.state.now_ns, "lunch", "ann"))
    assert desk.state.ask is None or of(desk.answer(15.0, 10.0), CancelOrder) == []
    assert set(names.values()) == set(desk.state.orders)


@pytest.mark.parametrize("shares", [10, 4])
def test_a_split_or_a_sale_by_hand_never_leaves_more_stops_than_shares(shares: int) -> None:
    desk, names = protected()
    desk.account.positions["SPY"] = (shares, Decimal(100))
    if shares < 10:
        desk.account.cash += 600
    effects = desk.put(ev.AcceptBrokerRequested(desk.at(2), "by hand", "ann"), desk.account.report(desk.at(2, 1)))
    effects += desk.tick(2, 5)
    cancelled = {effect.client_order_id for effect in of(effects, CancelOrder)}
    assert names["SPY"] in cancelled  # accepted: all orders end
    desk.account.end(names["SPY"])
    desk.account.end(names["QQQ"])
    later = desk.put(ev.OrderCanceled(desk.at(2, 6), names["SPY"]), ev.OrderCanceled(desk.at(2, 6), names["QQQ"]))
    later += desk.put(desk.account.report(desk.at(2, 7)), desk.account.report(desk.at(2, 8)))
    later += desk.tick(2, 20)
    assert {(order.symbol, order.quantity) for order in stops(later)} == {("SPY", shares), ("QQQ", 10)}


# --- options ----------------------------------------------------------------------------------------------------------


def test_an_option_s_stop_is_a_limit_with_a_floor_and_comes_with_a_narrow_quote() -> None:
    desk, _ = holding_calls(LIMITED)
    desk.effects.clear()
    desk.quotes(1, quote(CALL, "1.50", "2.60"), second=1)  # too wide for a price
    assert stops(desk.effects) == []
    desk.confirmed(1, quote(CALL, "1.98", "2.02"), second=5)
    (order,) = stops(desk.effects)
    assert (order.symbol, order.side, order.quantity, order.intent) == (CALL, -1, 9, "sell_to_close")
    assert (order.stop_price, order.limit_price) == (Decimal("1.10"), Decimal("0.55"))  # 45 % below, half of it


def test_a_stop_by_choice_has_no_floor_and_off_means_none() -> None:
    desk, _ = holding_calls(replace(LIMITED, options="stop"))
    desk.confirmed(1, quote(CALL, "1.98", "2.02"), second=5)
    assert [order.limit_price for order in stops(desk.effects)] == [None]
    desk, _ = holding_calls(replace(LIMITED, options="off"))
    desk.confirmed(1, quote(CALL, "1.98", "2.02"), second=5)
    assert stops(desk.effects) == []


def test_the_desk_s_own_stop_takes_the_broker_s_away_and_sells() -> None:
    desk, account = holding_calls(LIMITED)
    desk.confirmed(1, quote(CALL, "1.98", "2.02"), second=5)
    (stop,) = stops(desk.effects)
    account.take(stop, desk.state.now_ns)
    desk.accept(stop.client_order_id)
    desk.effects.clear()
    desk.confirmed(2, quote(CALL, "1.30", "1.32"))
    assert [e.client_order_id for e in of(desk.effects, CancelOrder)] == [stop.client_order_id]
    assert sales(desk.effects) == []
    account.end(stop.client_order_id)
    effects = desk.canceled(stop.client_order_id)
    assert [(order.quantity, order.limit_price is not None) for order in sales(effects)] == [(9, True)]


def test_the_stop_stays_until_the_sale_has_a_price_to_leave_at() -> None:
    desk, account = holding_calls(LIMITED)
    desk.confirmed(1, quote(CALL, "1.98", "2.02"), second=5)
    (stop,) = stops(desk.effects)
    account.take(stop, desk.state.now_ns)
    desk.accept(stop.client_order_id)
    desk.effects.clear()
    desk.quotes(2, quote(CALL, "2.98", "3.02"), second=1)  # a leap that a second quote has to confirm
    desk.put(ev.FlattenRequested(desk.at(2, 2), "out", "ann"))
    assert (of(desk.effects, CancelOrder), sales(desk.effects)) == ([], [])
    desk.quotes(2, quote(CALL, "2.98", "3.02"), second=4)
    assert [e.client_order_id for e in of(desk.effects, CancelOrder)] == [stop.client_order_id]


def test_a_stop_that_other_code_sent_is_taken_over_as_one_and_goes_on_resting() -> None:
    desk = Desk(RESTS)
    desk.holds()
    desk.state = structs.replace(desk.state, orders={})
    stop = SubmitOrder("e1-share_bars-7-2-0", "SPY", -1, 10, None, "", 0, stop_price=STOP)
    desk.state = desk.core.step(desk.state, ev.ClockTicked(desk.at(1, 5)), (stop,)).state
    order = desk.state.orders["e1-share_bars-7-2-0"]
    assert (order.purpose, order.stop_price, desk.state.decision) == ("protection", STOP, 7)
    later = desk.tick(1, 6)
    assert (of(later, CancelOrder), [order.symbol for order in stops(later)]) == ([], ["QQQ"])


# --- daily desks: below the last close, renewed daily -----------------------------------------------------------------


def test_a_daily_desk_s_stop_is_below_the_last_close_and_follows_it_each_session() -> None:
    d, account, name = daily()
    d.end(AAA=110.0, BBB=100.0, CCC=100.0)
    d.begin(TUESDAY)
    assert of(d.put(account.report(d.at(-20))), CancelOrder) == []  # it rests over the night
    effects = d.quotes(0, AAA="110")
    assert [effect.client_order_id for effect in of(effects, CancelOrder)] == [name]
    account.end(name)
    effects = d.put(ev.OrderCanceled(d.at(0, 5), name), account.report(d.at(0, 6))) + d.quotes(1, AAA="110")
    assert [(order.symbol, order.quantity, order.stop_price) for order in stops(effects)] == [("AAA", 10, MONDAY_S)]


def test_a_daily_desk_whose_stop_is_refused_watches_its_price_and_rests_it_once_that_passes() -> None:
    d, account, name = daily()
    d.end(AAA=110.0, BBB=100.0, CCC=100.0)
    d.begin(TUESDAY)
    d.put(account.report(d.at(-20)))
    d.quotes(0, AAA="110")
    account.end(name)
    effects = d.put(ev.OrderCanceled(d.at(0, 5), name), account.report(d.at(0, 6))) + d.quotes(1, AAA="110")
    all_effects: list[AnyEffect] = []
    minute = 1
    for waits in (2, 3, 4):  # a person's purchase at a stop works in this symbol
        (stop,) = stops(effects)
        all_effects += d.put(ev.OrderRejected(d.at(minute, 30), stop.client_order_id, "potential wash trade detected"))
        effects = []
        for later in range(1, waits + 1):
            effects += d.quotes(minute + later, AAA="110")
        all_effects, minute = all_effects + effects, minute + waits
    assert alarms(all_effects).count("order_rejected") == alarms(all_effects).count("unprotected") == 1
    (stop,) = stops(effects)
    d.put(ev.OrderRejected(d.at(minute, 30), stop.client_order_id, "potential wash trade detected"))
    slides = ("105", "100", "95", "91", "89", "88.10")
    for place, price in enumerate(slides):
        assert sales(d.quotes(12 + place / 6, AAA=price)) == []
    effects = d.quotes(13, AAA="87.90") + d.quotes(13.5, AAA="87.90") + d.put(account.report(d.at(13.6)))
    assert [(order.symbol, order.quantity, order.auction) for order in sales(effects)] == [("AAA", 10, False)]
    assert [work.reason for work in d.state.works.values()] == ["stop_loss"]


def test_a_stop_that_rests_all_day_asks_for_no_more_quotes_than_what_is_held() -> None:
    d, _, _ = daily()
    assert quoted_symbols(d.state) == (frozenset(), frozenset({"AAA"}))
    d.state = structs.replace(d.state, works={})
    (order,) = d.state.orders.values()
    d.state = structs.replace(d.state, orders={order.client_order_id: structs.replace(order, purpose="exit")})
    assert quoted_symbols(d.state) == (frozenset({"AAA"}), frozenset({"AAA"}))


def test_a_close_that_did_not_move_leaves_the_stop_where_it_is() -> None:
    d, account, name = daily()
    d.end(AAA=100.2, BBB=100.0, CCC=100.0)
    d.begin(TUESDAY)
    effects = d.put(account.report(d.at(-20))) + d.quotes(0, AAA="101") + d.quotes(1, AAA="90") + d.tick(2)
    assert (of(effects, CancelOrder), stops(effects)) == ([], [])
    assert list(d.state.orders) == [name]


def test_a_stop_that_is_done_for_the_day_rests_on_the_next_morning() -> None:
    d, account, name = daily()
    account.end(name, "done_for_day")
    effects = d.put(account.found(name, d.at(390)), account.report(d.at(391)))
    effects += d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    d.begin(TUESDAY)
    effects += d.put(account.report(d.at(-20)))
    account.end(name, "new")
    effects += d.put(account.report(d.at(0, 1))) + d.quotes(1, AAA="100") + d.tick(3)
    assert (stops(effects), of(effects, CancelOrder), alarms(effects)) == ([], [], [])
    assert (list(d.state.orders), d.state.risk.reconciled) == ([name], True)


def test_a_sale_into_the_auction_takes_the_stop_away_before_it() -> None:
    d, account, name = daily()
    d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    d.begin(TUESDAY)
    d.put(account.report(d.at(-20)))
    d.due()
    effects = d.answer(0, KEEP, KEEP)
    assert ([e.client_order_id for e in of(effects, CancelOrder)], sales(effects)) == ([name], [])
    account.end(name)
    effects = d.put(ev.OrderCanceled(d.at(-14), name), account.report(d.at(-13.9)))
    assert [(order.symbol, order.quantity, order.auction) for order in sales(effects)] == [("AAA", 10, True)]


def test_bars_that_were_split_over_night_end_the_stop_before_the_open() -> None:
    """A stop at 80 on shares that split to 50 would sell at the first trade, and the ledger's line may come later."""
    d, account, name = daily()
    d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    d.begin(TUESDAY)
    halves = (daily_bar("AAA", LAST_FRIDAY, 50.0), daily_bar("AAA", MONDAY, 50.0))
    effects = d.put(ev.HistoryAdjusted(d.at(-60), "AAA", halves))
    assert [effect.client_order_id for effect in of(effects, CancelOrder)] == [name]
    account.end(name)
    effects = d.put(ev.OrderCanceled(d.at(-59), name), account.report(d.at(-58))) + d.quotes(0, AAA="50")
    assert stops(effects) == []  # not before the ledger has its line


# --- dry runs: filled on paper, by bars ---------------------------------------------------------------------------


def dry_run(rests: bool | str, lows: dict[int, float]) -> list[tuple[str, int, str, str]]:
    """(symbol, side, price, minute) of the fills of a desk that wants SPY until the tenth minute; bars at 100.

    `lows` are lower lows by the minute, SPY's alone. Ten shares are bought at the open of minute 1.
    """
    rules = replace(RESTS, protection=Protection(rest_at_broker=rests))  # type: ignore[arg-type]
    strategy = TwoShares()
    machine = started(strategy, rules, SharePaperBroker(rules, SYMBOLS, by_bar=True))
    fills: list[tuple[str, int, str, str]] = []

    def bars() -> Iterator[ev.Event]:
        yield ev.SessionScheduled(MONDAY.open_ns - MINUTE, MONDAY, SESSIONS[1:])
        for minute in range(20):
            start = MONDAY.open_ns + minute * MINUTE
            for symbol in SYMBOLS:
                low = lows.get(minute, 100.0) if symbol == "SPY" else 100.0
                yield ev.BarClosed(start + MINUTE, Bar(symbol, start, 100.0, 100.0, low, 100.0, 1000.0))

    def answer(question: AskPolicy, now_ns: int) -> ev.PolicyAnswered:
        wish = 1.0 if now_ns < MONDAY.open_ns + 10 * MINUTE else -1.0
        return ev.PolicyAnswered(now_ns, question.decision, (wish, -1.0), b"", "v1")

    def watch(event: ev.Event, _: object) -> None:
        if isinstance(event, ev.OrderFilled):
            minute = (event.filled_ns - MONDAY.open_ns) / MINUTE
            fills.append((event.symbol, event.side, str(event.price), f"{minute:g}"))

    machine.run(bars(), answer, watch)
    return fills


def test_a_dry_run_s_exit_leaves_at_the_same_bar_with_a_stop_in_its_way() -> None:
    """Order news drive no sale of shares, since one print fills many; the end of a stop does."""
    without = dry_run(False, {})
    assert [(symbol, side, round(float(minute), 6)) for symbol, side, _, minute in without] == [
        ("SPY", 1, 1.0),
        ("SPY", -1, 10.0),
    ]
    assert dry_run(True, {}) == without


def test_a_dry_run_s_stop_sells_within_the_bar_that_falls_through_it() -> None:
    """Bought at 100.0 less nothing: 30 % and half as much again below is 55; the wait of 2 bp makes it 54.989."""
    assert dry_run(True, {5: 55.0})[1] == ("SPY", -1, "54.9890", "6")


def test_by_itself_no_stop_rests_in_a_dry_run() -> None:
    assert dry_run("auto", {5: 55.0})[1][2:] != ("54.9890", "6")
