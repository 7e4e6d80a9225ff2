"""What a stop that rests at the broker meets: persons, faults, nights, gaps, and sales of a part.

The desk is that of `tests.support.core.resting`: ten shares of each symbol at 100 USD, stops at 55 USD.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from decimal import Decimal

import pytest
from msgspec import structs

from daemon.core import events as ev
from daemon.core.broker.exits import exit_by_rule
from daemon.core.draft import Draft
from daemon.core.effects import AnyEffect, AskBroker, CancelOrder, RaiseAlarm, SubmitOrder
from daemon.core.limits import Basket, Broker, Trading
from daemon.core.step import Core
from tests.support.core import resting
from tests.support.core.account import Account, line
from tests.support.core.daily_desk import KEEP, LAST_FRIDAY, MIDNIGHT, DailyDesk, daily_desk
from tests.support.core.daily_desk import bar as daily_bar
from tests.support.core.daily_live import live
from tests.support.core.desk import CALL, MINUTE, MONDAY, SESSIONS, TUESDAY, alarms, of, quote
from tests.support.core.resting import (
    DISASTER,
    LIMITED,
    STOP,
    MoreShares,
    daily,
    holding_calls,
    left,
    sales,
    stops,
    working_sells,
)
from tests.support.core.two_shares import SECOND, SYMBOLS, Desk

SEES = Broker(on_blind="alarm")  # without bars nothing leaves
RESTS = replace(resting.RESTS, broker=SEES)
DAY_MIN = 24 * 60


def protected(rules: Trading = RESTS) -> tuple[Desk, dict[str, str]]:
    return resting.protected(rules)


def beside_a_person() -> tuple[Desk, dict[str, str]]:
    """The same beside a person's seven shares, which are ignored."""
    desk, names = protected(replace(RESTS, broker=replace(SEES, foreign_orders="ignore")))
    desk.account.by_hand("hand", "SPY", 1, 7, desk.at(1, 10))
    desk.put(desk.account.fill("hand", 7, "100", desk.at(1, 11)), desk.account.report(desk.at(1, 12)))
    return desk, names


def cancels(effects: list[AnyEffect]) -> list[str]:
    return [effect.client_order_id for effect in of(effects, CancelOrder)]


def quoted(desk: Desk, minute: int, second: float, price: str = "100", *symbols: str) -> list[AnyEffect]:
    """One event with the quotes of these symbols, or of both."""
    at_ns = desk.at(minute, second)
    return desk.put(
        ev.QuotesReceived(at_ns, 0, tuple(desk.quote(symbol, at_ns, price) for symbol in symbols or SYMBOLS))
    )


def minutes(desk: Desk, first: int, last: int, price: str = "100") -> list[AnyEffect]:
    """A report and quotes each minute, quotes and a tick every ten seconds."""
    effects: list[AnyEffect] = []
    for minute in range(first, last):
        effects += desk.put(desk.account.report(desk.at(minute, 1)))
        for second in range(2, 60, 10):
            effects += quoted(desk, minute, second, price) + desk.tick(minute, second + 1)
    return effects


def remove_stop(desk: Desk, names: dict[str, str], minute: int) -> None:
    """Somebody takes the stop of SPY away; the desk hears of it."""
    desk.account.end(names["SPY"])
    desk.put(ev.OrderCanceled(desk.at(minute), names["SPY"]), desk.account.report(desk.at(minute, 1)))


# --- persons ----------------------------------------------------------------------------------------------------------


def test_a_person_s_order_that_holds_all_shares_is_met_by_no_stop_and_an_alarm() -> None:
    desk, names = protected()
    remove_stop(desk, names, 2)
    desk.account.take(SubmitOrder("hand", "SPY", -1, 10, Decimal(300), "", 0), desk.at(2, 2))
    desk.put(desk.account.report(desk.at(2, 3)))
    effects = minutes(desk, 3, 8)
    assert [order.symbol for order in stops(effects)] == []
    assert "unprotected" in alarms(effects)


def test_beside_a_person_s_order_what_is_left_is_covered() -> None:
    desk, names = protected()
    remove_stop(desk, names, 2)
    desk.account.take(SubmitOrder("hand", "SPY", -1, 4, Decimal(300), "", 0), desk.at(2, 2))
    desk.put(desk.account.report(desk.at(2, 3)))
    effects = minutes(desk, 3, 4)
    assert [(order.symbol, order.quantity) for order in stops(effects)] == [("SPY", 6)]
    desk.take([*stops(effects)])
    effects = minutes(desk, 4, 8)
    assert stops(effects) == []
    assert "unprotected" in alarms(effects)  # four are not
    desk.account.end("hand")
    effects = minutes(desk, 8, 10)
    (small,) = set(cancels(effects))
    desk.account.end(small)
    (stop,) = stops(desk.put(ev.OrderCanceled(desk.at(10), small), desk.account.report(desk.at(10, 1))))
    assert (stop.symbol, stop.quantity) == ("SPY", 10)


def test_an_adopted_order_of_one_share_leaves_no_nine_without_a_stop() -> None:
    desk, names = protected(replace(RESTS, broker=replace(SEES, foreign_orders="adopt")))
    remove_stop(desk, names, 2)
    desk.account.take(SubmitOrder("hand", "SPY", -1, 1, Decimal(300), "", 0), desk.at(2, 2))
    desk.put(desk.account.report(desk.at(2, 3)))
    assert desk.state.orders["hand"].purpose == "foreign"
    effects = minutes(desk, 3, 5)
    assert [(order.symbol, order.quantity) for order in stops(effects)] == [("SPY", 9)]
    assert working_sells(desk, "SPY") == 10


def test_an_exit_that_an_adopted_stop_holds_back_is_told() -> None:
    """A person moved the desk's stop, which makes another order of it."""
    desk, names = protected(replace(RESTS, broker=replace(SEES, foreign_orders="adopt")))
    desk.account.end(names["SPY"], "replaced")
    person_order = desk.account.take(SubmitOrder("moved", "SPY", -1, 10, None, "", 0), desk.at(2))
    desk.account.orders[person_order] = structs.replace(desk.account.orders[person_order], stop_price=Decimal(70))
    desk.put(desk.account.report(desk.at(2, 2)))
    minutes(desk, 3, 5)
    effects = desk.put(ev.CloseRequested(desk.at(6), "SPY", 0, "out", "ann")) + minutes(desk, 7, 9)
    assert (sales(effects), "exit_held_up" in alarms(effects)) == ([], True)


def test_shares_that_a_person_sold_are_covered_by_no_stop() -> None:
    desk, names = protected()
    remove_stop(desk, names, 2)
    desk.account.positions["SPY"] = (5, Decimal(100))
    desk.account.cash += 500
    effects = desk.put(desk.account.report(desk.at(2, 2))) + minutes(desk, 3, 5)
    assert [(order.symbol, order.quantity) for order in stops(effects)] == [("SPY", 5)]
    assert (desk.state.book.positions["SPY"].quantity, "reconciliation" in desk.halted()) == (10, True)


def test_shares_of_others_are_covered_by_no_stop_and_hold_none_back() -> None:
    desk, names = beside_a_person()
    assert desk.state.broker.foreign_held == {"SPY": 7}
    remove_stop(desk, names, 2)
    effects = minutes(desk, 3, 5)
    assert [(order.symbol, order.quantity) for order in stops(effects)] == [("SPY", 10)]


def test_a_person_s_stop_of_the_person_s_own_shares_keeps_none_of_the_desk_s_away() -> None:
    desk, names = beside_a_person()
    desk.account.by_hand("own", "SPY", -1, 7, desk.at(1, 30))
    remove_stop(desk, names, 2)
    effects = minutes(desk, 3, 5)
    assert [(order.symbol, order.quantity) for order in stops(effects)] == [("SPY", 10)]


def test_of_more_than_a_person_s_own_shares_that_a_person_sells_the_rest_is_covered() -> None:
    desk, names = beside_a_person()
    remove_stop(desk, names, 2)
    desk.account.by_hand("more", "SPY", -1, 9, desk.at(2, 2))
    effects = desk.put(desk.account.report(desk.at(2, 3))) + minutes(desk, 3, 5)
    assert [(order.symbol, order.quantity) for order in stops(effects)] == [("SPY", 8)]


def test_once_others_took_three_away_one_rests_as_soon_as_a_person_resumes() -> None:
    desk, names = protected()
    minute, all_effects = 2, list[AnyEffect]()
    for _ in range(3):
        remove_stop(desk, names, minute)
        effects = minutes(desk, minute + 1, minute + 4)
        names = {order.symbol: desk.take([order])[0] for order in stops(effects)}
        all_effects += effects
        minute += 4
    assert ("foreign_order" in desk.halted(), names) == (True, {})
    all_effects += minutes(desk, minute, minute + 4)
    assert (len(stops(all_effects)), "unprotected" in alarms(all_effects)) == (2, True)
    effects = desk.put(ev.ResumeRequested(desk.at(minute + 4), "looked", "ann"))
    assert [order.symbol for order in stops(effects)] == ["SPY"]


# --- faults -----------------------------------------------------------------------------------------------------------


def test_a_stop_that_was_cancelled_and_never_arrived_is_over() -> None:
    desk = Desk(RESTS)
    desk.holds()
    first, _ = left(desk)
    desk.put(ev.PauseRequested(desk.at(1, 6), "lunch", "ann"))
    desk.put(ev.FlattenRequested(desk.at(1, 6), "out", "ann"))
    quoted(desk, 1, 7)  # the exit takes it away
    assert desk.state.orders[first.client_order_id].status == "pending_cancel"
    desk.state = structs.replace(desk.state, works={})  # and ends
    desk.put(ev.OrderUnknown(desk.at(1, 8), first.client_order_id))
    desk.put(ev.OrderMissing(desk.at(1, 12), first.client_order_id))
    assert first.client_order_id not in desk.state.orders


def test_a_stop_that_is_refused_again_and_again_waits_longer_each_time_and_says_so() -> None:
    desk = Desk(RESTS)
    desk.holds()
    new_stops, all_effects = left(desk), list[AnyEffect]()
    times, told = [1], list[int]()
    for minute in range(1, 25):
        effects = list[AnyEffect]()
        for order in new_stops:
            effects += desk.put(ev.OrderRejected(desk.at(minute, 59), order.client_order_id, "not for you"))
        effects += minutes(desk, minute + 1, minute + 2)
        new_stops = stops(effects)
        all_effects += effects
        times += [minute + 1] * bool(new_stops)
        told += [minute] * ("unprotected" in alarms(effects))
    assert [later - earlier for earlier, later in itertools.pairwise(times)] == [2, 3, 4, 5, 6]
    assert told[0] <= 3  # bought in the first minute: what is refused protects nothing, and begins no new wait


def test_a_stop_that_the_broker_ends_at_once_makes_no_loop() -> None:
    desk, names = protected()
    new_stops: list[SubmitOrder] = []
    name = names["SPY"]
    for second in range(1, 50):
        desk.account.end(name, "expired")
        effects = desk.put(ev.OrderExpired(desk.at(2, second), name)) + quoted(desk, 2, second + 0.5)
        new_stops += stops(effects)
        name = desk.take([*stops(effects)])[0] if stops(effects) else name
    assert len(new_stops) <= 1


def test_a_partial_fill_of_the_stop_that_is_busted_is_covered_again() -> None:
    desk, names = protected()
    name = names["SPY"]
    desk.put(desk.account.fill(name, 4, "54", desk.at(2)))
    desk.account.end(name, "canceled")
    desk.put(ev.OrderCanceled(desk.at(2, 1), name), desk.account.report(desk.at(2, 2)))
    effects = minutes(desk, 3, 5)
    assert [(order.symbol, order.quantity) for order in stops(effects)] == [("SPY", 6)]
    (again,) = desk.take([*stops(effects)])
    desk.account.positions["SPY"] = (10, Decimal(100))
    desk.account.cash -= 216
    desk.account.orders[name] = structs.replace(desk.account.orders[name], filled=Decimal(0), average_price=None)
    effects = desk.put(ev.TradeCorrected(desk.at(5), name, "x1", 0, Decimal(0), "trade_bust"))
    assert desk.state.book.positions["SPY"].quantity == 10
    effects += desk.put(desk.account.report(desk.at(5, 1))) + quoted(desk, 5, 2)
    assert cancels(effects) == [again]
    desk.account.end(again)
    effects = desk.put(ev.OrderCanceled(desk.at(5, 3), again)) + quoted(desk, 5, 4)
    assert [(order.symbol, order.quantity) for order in stops(effects)] == [("SPY", 10)]


def test_a_sale_that_is_refused_once_is_tried_again_before_a_stop_stands_in_its_way() -> None:
    desk, names = protected()
    desk.put(ev.FlattenRequested(desk.at(2), "out", "ann"))
    quoted(desk, 2, 1)
    attempts, effects, later = list[tuple[float, str, str]](), list[AnyEffect](), list[AnyEffect]()
    for second in range(2, 400):
        for name in list(names.values()):
            rests = desk.state.orders.get(name)
            if rests is not None and rests.cancel_asked_ns:
                desk.account.end(name)
                effects += desk.put(ev.OrderCanceled(desk.at(2, second), name))
        effects, later = [*later, *effects, *quoted(desk, 2, second)], []
        rested = {order.symbol: desk.take([order])[0] for order in stops(effects)}
        names |= rested
        attempts += [(second, order.symbol, "stop") for order in stops(effects)]
        for order in sales(effects):
            attempts.append((second, order.symbol, "sale"))
            later += desk.put(ev.OrderRejected(desk.at(2, second + 0.2), order.client_order_id, "not now"))
        effects = []
    of_spy = [(second, kind) for second, symbol, kind in attempts if symbol == "SPY"]
    assert [kind for _, kind in of_spy][:5] == ["sale", "sale", "stop", "sale", "stop"]
    times = [second for second, _ in of_spy]
    assert times[1] - times[0] <= 62  # a re-price interval
    assert times[2] - times[1] <= 2  # refused twice: it is covered
    assert 120 <= times[3] - times[2] <= 125
    assert times[4] - times[3] <= 2


# --- a part is sold ---------------------------------------------------------------------------------------------------


def trims() -> tuple[Desk, dict[str, str], list[AnyEffect]]:
    """The desk sells four of its ten SPY; the stop of all is taken away and has ended."""
    desk, names = protected()
    desk.core = desk.core.__class__(MoreShares())
    desk.minute(1)
    effects = desk.answer(6.0, 10.0)
    assert (cancels(effects), sales(effects)) == ([names["SPY"]], [])
    desk.account.end(names["SPY"])
    return desk, names, desk.put(ev.OrderCanceled(desk.at(2, 3), names["SPY"]))


def sale_of_spy(desk: Desk) -> SubmitOrder:
    """The sale of SPY that the desk has sent."""
    (order,) = [order for order in desk.state.orders.values() if (order.symbol, order.purpose) == ("SPY", "exit")]
    return SubmitOrder(order.client_order_id, "SPY", -1, order.quantity, order.limit_price, "", 0)


def test_while_a_part_is_sold_the_rest_is_covered() -> None:
    desk, _, after_cancel = trims()
    assert [(order.symbol, order.quantity) for order in stops(after_cancel)] == [("SPY", 6)]
    desk.take([*stops(after_cancel)])
    sale = sale_of_spy(desk)
    assert (sale.quantity, working_sells(desk, "SPY")) == (4, 10)
    desk.account.take(sale, desk.state.now_ns)
    effects = desk.put(desk.account.fill(sale.client_order_id, 4, "100", desk.at(2, 6)))
    effects += minutes(desk, 3, 6)
    assert (stops(effects), cancels(effects), working_sells(desk, "SPY")) == ([], [], 6)


def test_an_exit_of_all_does_not_wait_for_the_stop_below_what_a_trim_leaves() -> None:
    desk, _, after_cancel = trims()
    (stop,) = desk.take([*stops(after_cancel)])
    sale = sale_of_spy(desk)
    desk.account.take(sale, desk.state.now_ns)
    desk.put(desk.account.fill(sale.client_order_id, 4, "100", desk.at(2, 4)))
    effects = desk.put(ev.FlattenRequested(desk.at(2, 5), "out", "ann")) + quoted(desk, 2, 6) + desk.tick(2, 7)
    assert stop in cancels(effects)


def test_a_trim_that_is_refused_leaves_the_rest_covered_and_then_all() -> None:
    desk, _, after_cancel = trims()
    (small,) = desk.take([*stops(after_cancel)])
    effects: list[AnyEffect] = []
    for minute in range(2, 6):
        for order in tuple(desk.state.orders.values()):
            if order.purpose == "exit":
                desk.put(ev.OrderRejected(desk.at(minute, 6), order.client_order_id, "not now"))
        effects += minutes(desk, minute + 1, minute + 2)
        assert 6 <= working_sells(desk, "SPY") <= 10
        if minute == 2:
            assert (small in cancels(effects), {order.quantity for order in sales(effects)}) == (False, {4})
    assert small in cancels(effects)  # refused twice


def test_a_trim_of_contracts_leaves_the_rest_covered() -> None:
    desk, account = holding_calls(LIMITED)
    desk.confirmed(1, quote(CALL, "1.98", "2.02"), second=5)
    (stop,) = stops(desk.effects)
    account.take(stop, desk.state.now_ns)
    desk.accept(stop.client_order_id)
    desk.effects.clear()
    draft = Draft(desk.state, desk.core.desk)
    exit_by_rule(draft, CALL, "policy", 5)
    desk.state = draft.freeze()
    desk.confirmed(2, quote(CALL, "1.98", "2.02"))
    assert cancels(desk.effects) == [stop.client_order_id]
    account.end(stop.client_order_id)
    effects = desk.canceled(stop.client_order_id)
    assert ([order.quantity for order in sales(effects)], [order.quantity for order in stops(effects)]) == ([4], [5])


# --- nights, gaps and renewals ----------------------------------------------------------------------------------------


def test_a_fall_within_the_session_takes_no_stop_away() -> None:
    desk, names = protected()
    fallen = [quoted(desk, 2, second, "80") for second in range(2, 9, 2)]
    assert names["SPY"] not in cancels([effect for effects in fallen for effect in effects])


def test_before_the_open_a_price_at_the_stop_takes_it_away() -> None:
    """It would sell at the first trade whatever that is; the desk's own rule looks at the open."""
    d, account, name = daily()
    d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    d.begin(TUESDAY)
    d.put(account.report(d.at(-20)))
    assert cancels(d.quotes(-10, AAA="90")) == []
    assert cancels(d.quotes(-9, AAA="79/99")) == []  # too wide for a price
    assert cancels(d.quotes(-8, AAA="79")) == [name]


def test_a_stop_goes_on_resting_where_the_market_is_below_the_new_one() -> None:
    d, account, _ = daily()
    d.end(AAA=104.0, BBB=100.0, CCC=100.0)
    d.begin(TUESDAY)
    # between the old one, 80, and the new one, 83.20
    effects = d.put(account.report(d.at(-20))) + d.quotes(0, AAA="83")
    assert (cancels(effects), stops(effects)) == ([], [])


def test_what_opens_below_its_disaster_stop_leaves_by_two_prices() -> None:
    d, account, name = daily()
    d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    account.end(name)
    d.begin(TUESDAY)
    d.put(ev.OrderCanceled(d.at(-25), name), account.report(d.at(-20)))
    effects = d.quotes(0, AAA="78/99") + d.quotes(0.1, AAA="78/99")  # too wide for a price
    assert (sales(effects), stops(effects), d.state.works) == ([], [], {})
    for second in range(20, 100, 10):
        effects += d.quotes(second / 60, AAA="79") + d.put(account.report(d.at(0, second + 1)))
    assert [(order.symbol, order.quantity, order.limit_price) for order in sales(effects)] == [("AAA", 10, None)]
    assert [move.reason for move in d.state.works.values()] == ["stop_loss"]


def test_without_a_quote_the_alarm_says_that_the_price_is_missing_and_names_no_price_of_0_usd() -> None:
    d, account, name = daily()
    d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    account.end(name)
    d.begin(TUESDAY)
    d.put(ev.OrderCanceled(d.at(-25), name), account.report(d.at(-20)))
    effects = [effect for minute in range(1, 7) for effect in d.put(account.report(d.at(minute)))]
    told = {alarm.name: alarm.detail for alarm in of(effects, RaiseAlarm)}
    assert told["unprotected"] == (
        "10 AAA: no stop rests at the broker; no fresh quote and confirmed price of this session"
    )


def test_what_its_stop_sold_is_not_bought_by_what_is_left_of_the_basket() -> None:
    """Twenty more were wanted in the morning, at an ask that was beyond the collar; at 81 thirty would be."""
    d, account, name = daily()
    d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    d.begin(TUESDAY)
    d.put(account.report(d.at(-20)))
    d.due()
    d.answer(30, 5, KEEP)
    assert sales(d.quotes(0, AAA="100/120")) == []
    d.put(account.fill(name, 10, "79", d.at(1)), account.report(d.at(1, 1)))
    assert [work.symbol for work in d.state.works.values()] == ["BBB"]
    effects: list[AnyEffect] = []
    for second in range(70, 400, 10):
        effects += d.quotes(second / 60, AAA="81/81.02", BBB="100") + d.put(account.report(d.at(0, second + 1)))
    assert {order.symbol for order in of(effects, SubmitOrder)} == {"BBB"}


@pytest.mark.parametrize("close", [126.0, 200.0])
def test_one_wrong_close_far_above_the_price_sells_nothing_and_the_one_before_it_counts(close: float) -> None:
    """The closes are 100 of Friday and a wrong one of Monday; all the time the price is 100."""
    d, account, name = daily()
    account.end(name)
    d.put(ev.OrderCanceled(d.at(2), name))
    d.end(AAA=close, BBB=100.0, CCC=100.0)
    d.begin(TUESDAY)
    effects = d.put(account.report(d.at(-20)))
    for second in range(0, 240, 10):
        effects += d.quotes(second / 60, AAA="100") + d.put(account.report(d.at(0, second + 1)))
    assert (sales(effects), d.state.works) == ([], {})
    assert [(order.quantity, order.stop_price) for order in stops(effects)] == [(10, Decimal("80.00"))]


def test_what_opens_below_its_disaster_stop_is_not_bought_until_a_stop_could_rest() -> None:
    """Bought at 79 with its stop at 80, 20 % below the close of 100, it would be sold at once."""
    account = Account()
    d = live(account, DISASTER)
    d.due()
    d.answer(5, KEEP, KEEP)
    effects = d.quotes(0, AAA="79")
    for minute in (1, 2, 3):
        effects += d.put(account.report(d.at(minute - 0.5))) + d.quotes(minute, AAA="79")
    assert of(effects, SubmitOrder) == []
    (order,) = of(d.quotes(4, AAA="81") + d.quotes(5, AAA="81"), SubmitOrder)
    assert (order.side, order.quantity) == (1, 5)


def test_more_of_what_opens_below_its_disaster_stop_is_not_bought_and_what_is_held_leaves() -> None:
    d, account, name = daily()
    d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    account.end(name)
    d.begin(TUESDAY)
    d.put(ev.OrderCanceled(d.at(-25), name), account.report(d.at(-20)))
    d.due()
    effects = d.answer(15, KEEP, KEEP)
    for minute in (0, 1, 2, 3):
        effects += d.quotes(minute, AAA="79") + d.put(account.report(d.at(minute + 0.5)))
    assert {(order.symbol, order.side, order.quantity) for order in of(effects, SubmitOrder)} == {("AAA", -1, 10)}


def test_an_old_stop_is_renewed_in_a_session_and_not_at_night() -> None:
    desk, names = protected()
    old = desk.at(61 * DAY_MIN) - desk.at(0)
    desk.state = structs.replace(
        desk.state,
        orders={n: structs.replace(o, submitted_ns=o.submitted_ns - old) for n, o in desk.state.orders.items()},
    )
    night = structs.replace(desk.state.session, session=TUESDAY)
    today, desk.state = desk.state, structs.replace(desk.state, session=night)
    assert cancels(desk.tick(5, 0)) == []
    desk.state = structs.replace(today, now_ns=desk.state.now_ns)
    assert set(cancels(minutes(desk, 6, 7))) == set(names.values())


@pytest.mark.parametrize("what", ["fewer", "splits", "to_come", "apart", "old"])
def test_a_daily_desk_s_stop_that_rests_well_goes_in_the_session_where_something_came(what: str) -> None:
    d, _, name = daily()
    assert cancels(d.quotes(2, AAA="100") + d.tick(3)) == []
    state = d.state
    position, order = state.book.positions["AAA"], state.orders[name]
    if what == "fewer":
        book = structs.replace(state.book, positions={"AAA": structs.replace(position, quantity=9)})
        d.state = structs.replace(state, book=book)
    elif what == "old":
        order = structs.replace(order, submitted_ns=order.submitted_ns - 61 * DAY_MIN * MINUTE)
        d.state = structs.replace(state, orders={name: order})
    else:
        d.state = structs.replace(state, basket=structs.replace(state.basket, **{what: ("AAA",)}))
    assert cancels(d.quotes(4, AAA="100")) == [name]


def test_no_more_than_ten_stops_are_on_their_way_at_once() -> None:
    """An exit waits for its own stop in our queue, never behind forty of them."""
    desk, names = protected()
    qqq = desk.state.orders[names["QQQ"]]
    waiting = {
        f"x{n}": structs.replace(qqq, client_order_id=f"x{n}", symbol=f"X{n}", status="submitted", order_id="")
        for n in range(10)
    }
    remove_stop(desk, names, 2)
    desk.state = structs.replace(desk.state, orders={**desk.state.orders, **waiting})
    assert stops(quoted(desk, 3, 5)) == []
    desk.state = structs.replace(desk.state, orders={qqq.client_order_id: qqq})
    assert [order.symbol for order in stops(quoted(desk, 3, 6))] == ["SPY"]


def test_no_more_than_twenty_stops_are_renewed_in_a_minute() -> None:
    """Each takes two of the account's calls, and exits wait behind no more of them."""
    desk, names = protected()
    (spy, qqq), rested = (desk.state.orders[names[symbol]] for symbol in SYMBOLS), desk.state.orders
    other_stops = {f"x{n}": structs.replace(qqq, client_order_id=f"x{n}", symbol=f"X{n}") for n in range(20)}
    old = structs.replace(spy, submitted_ns=spy.submitted_ns - 61 * DAY_MIN * 60 * 10**9)
    desk.state = structs.replace(desk.state, orders={**rested, spy.client_order_id: old, **other_stops})
    effects = quoted(desk, 1, 10)
    assert names["SPY"] not in cancels(effects)
    desk.state = structs.replace(desk.state, orders={**rested, spy.client_order_id: old})
    assert names["SPY"] in cancels(quoted(desk, 1, 12))


def test_a_sale_decided_before_the_open_does_not_wait_for_a_stop_rested_at_it() -> None:
    d, account, name = daily()
    d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    d.begin(TUESDAY)
    d.put(account.report(d.at(-20)), ev.FlattenRequested(d.at(-19), "out", "ann"))
    d.quotes(0, AAA="100")
    assert d.state.orders[name].cancel_asked_ns
    account.end(name)
    effects = d.put(ev.OrderCanceled(d.at(0, 2), name), account.report(d.at(0, 3))) + d.tick(0, 4)
    assert ([order.quantity for order in sales(effects)], stops(effects)) == ([10], [])


def test_an_upgrade_rests_stops_below_what_was_held_before() -> None:
    desk = Desk(replace(RESTS, protection=Trading().protection))
    desk.holds()
    assert left(desk) == []
    desk.put(ev.RunStarted(desk.at(3), "live", "d", "share_bars", "e1", "c", "sip", RESTS))
    effects = desk.put(desk.account.report(desk.at(3, 1))) + minutes(desk, 4, 5)
    assert {(order.symbol, order.quantity, order.stop_price) for order in stops(effects)} == {
        (symbol, 10, STOP) for symbol in SYMBOLS
    }


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("e0-share_bars-12-2-0", True),
        ("e0-share_bars-12-1-0", False),  # a sale
        ("e0-other-12-2-0", False),  # of another desk
        ("hand", False),
    ],
)
def test_the_stop_of_a_lost_journal_ends_once_a_person_accepts_its_shares(name: str, *, ends: bool) -> None:
    desk = Desk(RESTS)
    fresh = desk.core.start(desk.state.identity, RESTS)
    desk.state, desk.account.positions = fresh, {"SPY": (10, Decimal(100))}
    desk.account.take(SubmitOrder(name, "SPY", -1, 10, None, "", 0, stop_price=STOP), desk.at(-60))
    desk.put(ev.SessionScheduled(desk.at(2), MONDAY, SESSIONS[1:]), desk.account.report(desk.at(2, 1)))
    assert desk.halted().startswith("foreign_order")
    effects = desk.put(ev.AcceptBrokerRequested(desk.at(2, 2), "mine", "ann"), desk.account.report(desk.at(2, 3)))
    assert cancels(effects) == [name] * ends
    if ends:
        desk.account.end(name)
        effects = desk.put(desk.account.report(desk.at(2, 10))) + minutes(desk, 3, 4)
        assert [(order.symbol, order.quantity) for order in stops(effects)] == [("SPY", 10)]


def test_bars_of_the_old_shares_sell_nothing() -> None:
    """The ledger told the split, the history not yet: a stop 20 % below the old close of 100 is above the new price."""
    d, account, name = daily()
    d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    account.end(name)
    d.begin(TUESDAY)
    account.positions["AAA"] = (20, Decimal(50))
    account.book(line("SPLIT", "AAA", 10))
    d.put(ev.OrderCanceled(d.at(-25), name), account.report(d.at(-20)))
    assert d.held == {"AAA": 20}
    effects: list[AnyEffect] = []
    for second in range(0, 240, 10):
        effects += d.quotes(second / 60, AAA="50") + d.put(account.report(d.at(0, second + 1)))
    assert (sales(effects), stops(effects), d.state.works, "unprotected" in alarms(effects)) == ([], [], {}, True)
    halves = (daily_bar("AAA", LAST_FRIDAY, 50.0), daily_bar("AAA", MONDAY, 50.0))
    effects = d.put(ev.HistoryAdjusted(d.at(5), "AAA", halves)) + d.quotes(6, AAA="50")
    assert [(order.quantity, order.stop_price) for order in stops(effects)] == [(20, Decimal("40.00"))]


def test_a_close_of_an_earlier_session_sells_nothing() -> None:
    d, account, name = daily()
    d.end(BBB=100.0, CCC=100.0)  # AAA has no bar of Monday: the newest is Friday's, at 100
    account.end(name)
    d.begin(TUESDAY)
    d.put(ev.OrderCanceled(d.at(-25), name), account.report(d.at(-20)))
    effects: list[AnyEffect] = []
    for second in range(0, 240, 10):
        effects += d.quotes(second / 60, AAA="79") + d.put(account.report(d.at(0, second + 1)))
    assert (sales(effects), d.state.works, "unprotected" in alarms(effects)) == ([], {}, True)


@pytest.mark.parametrize(("close", "price", "sold", "rests"), [(100.0, "79", 10, []), (90.0, "79", 0, ["72.00"])])
def test_a_close_that_came_after_its_session_s_end_counts_before_the_next_decision(
    close: float, price: str, sold: int, rests: list[str]
) -> None:
    """A desk that decides before the close: its strategy is shown Monday's bar at 15:50 of Tuesday."""
    d, account, name = daily()
    d.state = structs.replace(d.state, trading=replace(d.state.trading, basket=Basket(decide="before_close")))
    d.end()
    account.end(name)
    d.begin(TUESDAY)
    d.put(ev.OrderCanceled(d.at(-25), name), account.report(d.at(-20)))
    d.bars(MONDAY, AAA=close, BBB=100.0, CCC=100.0)
    effects: list[AnyEffect] = []
    for second in range(0, 240, 10):
        effects += d.quotes(second / 60, AAA=price) + d.put(account.report(d.at(0, second + 1)))
    assert sum(order.quantity for order in sales(effects)) == sold
    assert [str(order.stop_price) for order in stops(effects)][:1] == rests


def announced(d: DailyDesk, account: Account, kind: str, minute: float, day: str = TUESDAY.date) -> ev.BrokerReported:
    """A report that names what happens to AAA on that day."""
    line = ev.Activity(f"{day} {kind} AAA", kind, "AAA", Decimal(0), None, Decimal(0), "announced", 0, ex_date=day)
    return structs.replace(account.report(d.at(minute)), activities=(line,))


@pytest.mark.parametrize("kind", ["SPLIT", "SPIN", "MA"])
def test_what_is_announced_for_the_day_takes_the_stop_away_before_the_open(kind: str) -> None:
    d, account, name = daily()
    d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    d.begin(TUESDAY)
    assert cancels(d.put(announced(d, account, kind, -25, "2024-07-03"))) == []  # tomorrow's
    assert cancels(d.put(announced(d, account, kind, -20))) == [name]
    account.end(name)
    effects = d.put(ev.OrderCanceled(d.at(-19), name), account.report(d.at(-18)))
    for second in range(0, 120, 10):
        effects += d.quotes(second / 60, AAA="100") + d.put(account.report(d.at(0, second + 1)))
    # after a spin-off or a merger that did not move the price it rests again; a split waits for the ledger
    assert [order.quantity for order in stops(effects)] == ([] if kind == "SPLIT" else [10])
    assert (sales(effects), d.held, d.state.book.cash) == ([], {"AAA": 10}, Decimal(9000))


def test_an_announced_split_that_the_ledger_tells_at_noon_is_covered_then_and_sells_nothing_before() -> None:
    d, account, name = daily()
    d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    d.begin(TUESDAY)
    d.put(announced(d, account, "SPLIT", -20))
    account.end(name)
    effects = d.put(ev.OrderCanceled(d.at(-19), name), account.report(d.at(-18)))
    for minute in range(150):
        effects += d.quotes(minute, AAA="50") + d.put(account.report(d.at(minute, 1)))
    assert (sales(effects), stops(effects), d.state.works, "unprotected" in alarms(effects)) == ([], [], {}, True)
    account.positions["AAA"] = (20, Decimal(50))
    account.book(line("SPLIT", "AAA", 10))
    halves = (daily_bar("AAA", LAST_FRIDAY, 50.0), daily_bar("AAA", MONDAY, 50.0))
    effects = d.put(account.report(d.at(150)), ev.HistoryAdjusted(d.at(151), "AAA", halves)) + d.quotes(152, AAA="50")
    assert [(order.quantity, order.stop_price) for order in stops(effects)] == [(20, Decimal("40.00"))]


def split_tuesday(d: DailyDesk, account: Account, *counts: int) -> None:
    """The ledger's lines of a split, as the broker dates them: at Tuesday's midnight."""
    for count in counts:
        account.book(structs.replace(line("SPLIT", "AAA", count), time_ns=TUESDAY.open_ns - MIDNIGHT))


@pytest.mark.parametrize("counts", [(-10, 20), (10,)])
@pytest.mark.parametrize("has_fills", [True, False])
def test_a_stop_that_sold_over_a_split_while_the_daemon_was_down_sold_new_shares(
    counts: tuple[int, ...], *, has_fills: bool
) -> None:
    """Two for one: 10 of 20 are sold at 50, which cost 50 each."""
    d, account, name = daily()
    account.positions["AAA"] = (20, Decimal(50))
    split_tuesday(d, account, *counts)
    account.fill(name, 10, "50", TUESDAY.open_ns)
    d.begin(TUESDAY)
    d.put(ev.RunStarted(d.at(60), "live", "d", "shelf", "e1", "c", "sip", d.state.trading))
    report = account.report(d.at(60, 1))
    effects = d.put(report if has_fills else structs.replace(report, fills=()), account.report(d.at(60, 12)))
    assert (sales(effects), d.held, d.state.book.cash) == ([], {"AAA": 10}, Decimal(9500))
    assert (d.state.book.realized, d.state.book.equity, d.state.risk.halt) == (Decimal(0), Decimal(10_000), None)
    assert (d.state.risk.reconciled, d.state.orders) == (True, {})


def test_what_a_stop_sold_before_a_split_was_of_the_old_shares() -> None:
    """4 of 10 are sold at 79 on Monday, which cost 100 each; 6 of the 12 that were left at 50 on Tuesday."""
    d, account, name = daily()
    account.fill(name, 4, "79", d.at(300))
    account.positions["AAA"] = (12, Decimal(50))
    split_tuesday(d, account, 6)
    account.fill(name, 6, "50", TUESDAY.open_ns)
    d.begin(TUESDAY)
    d.put(ev.RunStarted(d.at(60), "live", "d", "shelf", "e1", "c", "sip", d.state.trading))
    d.put(account.report(d.at(60, 1)), account.report(d.at(60, 12)))
    assert (d.held, d.state.book.cash, d.state.book.realized) == ({"AAA": 6}, Decimal(9616), Decimal(-84))
    assert (d.state.risk.halt, d.state.risk.reconciled) == (None, True)


def test_a_stop_that_sold_all_it_held_before_a_split_of_the_rest_is_booked_first() -> None:
    """4 of 10 are sold at 79 on Monday, then the order ended: 6 shares become 12."""
    d, account, name = daily()
    account.fill(name, 4, "79", d.at(300))
    account.end(name)
    account.positions["AAA"] = (12, Decimal(50))
    split_tuesday(d, account, 6)
    d.begin(TUESDAY)
    d.put(ev.RunStarted(d.at(60), "live", "d", "shelf", "e1", "c", "sip", d.state.trading))
    d.put(account.report(d.at(60, 1)), account.report(d.at(60, 12)))
    assert (d.held, d.state.book.cash, d.state.book.realized) == ({"AAA": 12}, Decimal(9316), Decimal(-84))
    assert (d.state.risk.halt, d.state.risk.reconciled) == (None, True)


def renamed(d: DailyDesk, account: Account, name: str, held: int = 10, *, guard: str = "") -> None:
    """AAA is called NEW from Tuesday on, and the broker keeps the stop under the new name."""
    account.positions["NEW"] = account.positions.pop("AAA")
    account.orders[name] = structs.replace(account.orders[name], symbol="NEW")
    for symbol, count in (("AAA", -held), ("NEW", held)):
        account.book(structs.replace(line("NC", symbol, count), time_ns=TUESDAY.open_ns - MIDNIGHT))
    d.begin(TUESDAY)
    rules = replace(d.state.trading, guard_prefix=guard) if guard else d.state.trading
    d.put(ev.RunStarted(d.at(-60), "live", "d", "shelf", "e1", "c", "sip", rules))


def test_a_stop_that_the_broker_keeps_under_a_new_name_is_the_desk_s_own_and_ends() -> None:
    d, account, name = daily()
    renamed(d, account, name)
    effects = d.put(account.report(d.at(-50)))
    assert (cancels(effects), d.held, d.state.risk.halt) == ([name], {"NEW": 10}, None)
    (stop_detail, share_detail) = [alarm.detail for alarm in of(effects, RaiseAlarm) if alarm.name == "shares_renamed"]
    assert stop_detail == f"{name} (sell 10 AAA): the broker has it as NEW now; it is cancelled"
    assert share_detail.startswith("10 AAA became 10 NEW")
    account.end(name)
    d.put(account.report(d.at(-40)))
    assert (d.state.orders, d.state.risk.halt, d.state.risk.reconciled) == ({}, None, True)
    effects = d.put(ev.CloseRequested(d.at(1), "NEW", 0, "out", "ann"), account.report(d.at(1, 1))) + d.tick(1, 2)
    assert [(order.symbol, order.quantity) for order in sales(effects)] == [("NEW", 10)]


def test_a_stop_that_sold_under_a_new_name_while_the_daemon_was_down_sold_the_desk_s_shares() -> None:
    """10 that cost 1,000 are sold at 79."""
    d, account, name = daily()
    renamed(d, account, name)
    account.fill(name, 10, "79", TUESDAY.open_ns)
    for minute in (1, 2):
        d.put(account.report(d.at(minute)))
    assert (d.held, d.state.book.cash, d.state.book.realized) == ({}, Decimal(9790), Decimal(-210))
    assert (d.state.orders, d.state.risk.halt, d.state.risk.reconciled) == ({}, None, True)


@pytest.mark.parametrize("line_first", [False, True])
def test_a_sale_of_a_stop_that_the_stream_tells_under_a_new_name_first_is_booked_by_the_report(
    *, line_first: bool
) -> None:
    """4 of 10 that cost 1,000 are sold at 79; the stream tells it twice."""
    d, account, name = daily()
    renamed(d, account, name)
    if line_first:
        d.put(structs.replace(account.report(d.at(-30)), open_orders=(), ended_orders=()))
    fill = account.fill(name, 4, "79", TUESDAY.open_ns)
    effects = d.put(fill, fill)
    assert (d.state.risk.halt, "fill_mismatch" in alarms(effects)) == (None, False)
    assert any("filled as NEW, not AAA" in ask.why for ask in of(effects, AskBroker))
    account.end(name)
    for minute in (1, 2):
        d.put(account.report(d.at(minute)))
    assert (d.held, d.state.book.cash, d.state.book.realized) == ({"NEW": 6}, Decimal(9316), Decimal(-84))
    assert (d.state.orders, d.state.risk.halt, d.state.risk.reconciled) == ({}, None, True)


def test_what_a_stop_sold_before_and_after_a_new_name_is_booked_once() -> None:
    """Of 10 that cost 1,000, 4 are sold at 79 under the former name and 6 at 78 under the new one."""
    d, account, name = daily()
    account.fill(name, 4, "79", d.at(300))
    renamed(d, account, name, 6)
    account.fill(name, 6, "78", TUESDAY.open_ns)
    for minute in (1, 2):
        d.put(account.report(d.at(minute)))
    assert (d.held, d.state.book.cash, d.state.book.realized) == ({}, Decimal(9784), Decimal(-216))
    assert (d.state.orders, d.state.risk.halt, d.state.risk.reconciled) == ({}, None, True)


@pytest.mark.parametrize("sold", [0, 4, 10])
def test_a_stop_of_the_guard_that_the_broker_keeps_under_a_new_name_is_the_desk_s_own(sold: int) -> None:
    """The desk's own stop lapsed while it was away, and its guard rested one below AAA."""
    d, account, own_name = daily()
    account.end(own_name, "expired")
    name = account.take(SubmitOrder("guard-AAA-7-9-0", "AAA", -1, 10, None, "", 0), d.at(300))
    account.orders[name] = structs.replace(account.orders[name], stop_price=Decimal(80))
    renamed(d, account, name, guard="guard")
    if sold:
        account.fill(name, sold, "79", TUESDAY.open_ns)
    effects = d.put(account.report(d.at(1)))
    assert name in cancels(effects)
    account.end(name, "filled" if sold == 10 else "canceled")
    d.put(account.report(d.at(2)))
    assert d.held == ({"NEW": 10 - sold} if sold < 10 else {})
    assert (d.state.book.cash, d.state.book.realized) == (Decimal(9000 + 79 * sold), Decimal(-21 * sold))
    assert (d.state.orders, d.state.risk.halt, d.state.risk.reconciled) == ({}, None, True)


@pytest.mark.parametrize("days", [0, 3])
def test_a_split_that_is_announced_after_its_line_was_booked_is_waited_for_no_more(days: int) -> None:
    """The stop rests at the new price, and a fall is seen: 10 at 100 are 20 at 50."""
    d, account, name = daily()
    d.end(AAA=100.0, BBB=100.0, CCC=100.0)
    d.begin(TUESDAY)
    account.positions["AAA"] = (20, Decimal(50))
    split_tuesday(d, account, 10)
    account.lines = [structs.replace(line, time_ns=line.time_ns - days * DAY_MIN * MINUTE) for line in account.lines]
    account.end(name)
    d.put(ev.OrderCanceled(d.at(-26), name), account.report(d.at(-25)), announced(d, account, "SPLIT", -24))
    halves = (daily_bar("AAA", LAST_FRIDAY, 50.0), daily_bar("AAA", MONDAY, 50.0))
    d.put(ev.HistoryAdjusted(d.at(-22), "AAA", halves), announced(d, account, "SPLIT", -21))
    effects = d.put(account.report(d.at(0, 1))) + d.quotes(0.1, AAA="50")
    assert [(order.quantity, order.stop_price) for order in stops(effects)] == [(20, Decimal("40.00"))]
    d.quotes(1, AAA="48")
    assert d.state.book.equity == 9960


# --- goals that change at each bar ------------------------------------------------------------------------------------


def confirmed(desk: Desk, effects: list[AnyEffect]) -> list[AnyEffect]:
    """The broker takes each order among the effects and ends each that is to be cancelled; what follows."""
    desk.take(effects)
    answers: list[AnyEffect] = []
    for name in cancels(effects):
        desk.account.end(name)
        answers += desk.put(ev.OrderCanceled(desk.state.now_ns + 1, name))
    return answers + confirmed(desk, answers) if answers else answers


def test_buys_that_follow_each_other_leave_no_stop_and_the_alarm_says_so_after_two_minutes() -> None:
    """The stop gives way to the first one at 9:32:01; one more share is wanted each minute, and none is sold to us."""
    desk, _ = protected()
    desk.core = Core(MoreShares())
    told_s: list[float] = []
    for minute in range(1, 6):
        desk.minute(minute)
        effects = desk.answer(10.0 + minute, 10.0)
        for second in range(2, 60, 2):
            effects += confirmed(desk, effects)
            told_s += [
                (desk.state.now_ns - desk.at(2, 1)) / SECOND for name in alarms(effects) if name == "unprotected"
            ]
            effects = quoted(desk, minute + 1, second)
    assert [round(seconds) for seconds in told_s] == [121]


def test_shares_bought_long_after_the_last_ones_left_have_their_two_minutes_too() -> None:
    desk, _ = protected()
    desk.minute(1)
    effects = confirmed(desk, desk.answer(0.0, 1.0))
    (sale,) = sales(effects)
    desk.put(desk.account.fill(sale.client_order_id, 10, "100", desk.state.now_ns + 1))
    minutes(desk, 3, 8)
    desk.minute(8)
    (buy,) = desk.take(desk.answer(1.0, 1.0))
    effects = desk.put(desk.account.fill(buy, 4, "100", desk.state.now_ns + 1))
    assert "unprotected" not in alarms(effects + minutes(desk, 9, 10))


@pytest.mark.parametrize("is_filled", [True, False])
def test_the_buy_that_a_tapes_print_is_about_to_fill_is_no_alarm_and_one_that_it_left_is(is_filled: bool) -> None:
    """A tape's prints are a minute apart: one buy of 12 AAA that begins at the first is filled by the third."""
    d = daily_desk(replace(resting.DISASTER, basket=Basket(auction=False))).holds(AAA=10)
    d.begin(TUESDAY)
    d.due()
    d.answer(12, KEEP, KEEP)
    d.prints(0, AAA="100")
    d.quotes(0, AAA="100")
    for name in [name for name, order in d.state.orders.items() if order.purpose == "protection"]:
        d.put(ev.OrderCanceled(d.state.now_ns, name))
    d.prints(1, AAA="100")
    d.quotes(1, AAA="100")
    assert d.working() == [("AAA", 2)]
    alarm_names = alarms(d.prints(2, AAA="100"))
    if is_filled:
        (buy,) = d.state.orders
        alarm_names += alarms(d.fill(buy, 2, "100"))
    effects = d.quotes(2, AAA="100")
    assert (alarm_names, "unprotected" in alarms(effects), len(stops(effects))) == (
        ([], False, 1) if is_filled else ([], True, 0)
    )
