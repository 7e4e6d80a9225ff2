"""A desk that comes back to what its guard did meanwhile: stops, cancelled entries, a fenced account.

Prices and quantities in the assertions are those of `tests.support.core.resting`, and arithmetic by hand.
"""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import Literal

import pytest
from msgspec import UNSET
from msgspec.structs import replace as with_fields

from daemon.core import events as ev
from daemon.core.broker.protection import Cover, cover_of
from daemon.core.draft import Draft
from daemon.core.effects import CancelOrder, LiftFence, SubmitOrder
from daemon.core.limits import Trading
from daemon.core.orders import ACCEPTED
from daemon.core.records import FillRow
from daemon.core.state import Identity
from daemon.operator.heartbeat import heartbeat_of
from tests.support.core.desk import MINUTE, MONDAY, SESSIONS, of
from tests.support.core.resting import LIMITED, RESTS, STOP, alarms, daily, holding_calls, protected, stops
from tests.support.core.two_shares import Desk

GUARDED = replace(RESTS, guard_prefix="guard")
FENCED = "trade_suspended_by_user (the account's setting suspend_trade)"


def by_guard(desk: Desk, symbol: str, quantity: int, at_ns: int, price: str = "55.00", name: str = "") -> str:
    """The guard's stop arrives at the account, as the report describes it."""
    name = desk.account.take(SubmitOrder(name or f"guard-{symbol}-7-9-0", symbol, -1, quantity, None, "", 0), at_ns)
    desk.account.orders[name] = with_fields(desk.account.orders[name], stop_price=Decimal(price))
    return name


def bare(rules: Trading = GUARDED) -> Desk:
    """A desk that holds ten of each; its own stops lapsed at the broker while it was away."""
    desk, names = protected(rules)
    for name in names.values():
        desk.account.end(name, "expired")
    return desk


def returns(desk: Desk, minute: int, rules: Trading = GUARDED) -> list[str]:
    """The daemon starts again; returns the alarms up to its first report."""
    desk.put(ev.RunStarted(desk.at(minute), "live", "d", "share_bars", "e1", "c", "sip", rules))
    return alarms(desk.put(desk.account.report(desk.at(minute, 1))))


def test_a_returning_desk_takes_the_guard_s_stops_as_its_own() -> None:
    desk = bare()
    names = [by_guard(desk, symbol, 10, desk.at(20)) for symbol in ("SPY", "QQQ")]
    assert returns(desk, 60).count("guard_acted") == 1  # for both
    assert (desk.halted(), desk.state.risk.reconciled) == ("", True)
    for name in names:
        order = desk.state.orders[name]
        assert (order.purpose, order.status, order.stop_price) == ("protection", ACCEPTED, STOP)
    assert stops(desk.minute(61)) == []  # nothing is left to cover


def test_without_a_guard_in_its_configuration_the_same_order_halts() -> None:
    desk = bare(RESTS)
    by_guard(desk, "SPY", 10, desk.at(20))
    returns(desk, 60, RESTS)
    assert "foreign_order" in desk.halted()


@pytest.mark.parametrize("difference", ["a buy", "no stop", "another prefix"])
def test_what_no_guard_sends_is_foreign_whatever_its_name(difference: str) -> None:
    desk = bare()
    name = by_guard(desk, "SPY", 10, desk.at(20), name="guards-1" if difference == "another prefix" else "")
    order = desk.account.orders[name]
    if difference == "a buy":
        desk.account.orders[name] = with_fields(order, side=1)
    elif difference == "no stop":
        desk.account.orders[name] = with_fields(order, stop_price=UNSET)
    returns(desk, 60)
    assert "foreign_order" in desk.halted()


@pytest.mark.parametrize("rule", ["halt", "ignore", "adopt"])
@pytest.mark.parametrize("status", ["expired", "canceled", "rejected"])
def test_stops_of_the_guard_that_ended_and_sold_nothing_are_nobody_else_s_order(
    status: str, rule: Literal["halt", "ignore", "adopt"]
) -> None:
    """Those of the days before, as a fraction's stop is for the day; the last one rests."""
    rules = replace(GUARDED, broker=replace(GUARDED.broker, foreign_orders=rule))
    desk = bare(rules)
    for number in range(3):
        former = by_guard(desk, "SPY", 10, desk.at(20 + number), name=f"guard-SPY-7-9-{number}")
        desk.account.end(former, status)
    name = by_guard(desk, "SPY", 10, desk.at(30), name="guard-SPY-7-9-3")
    told = returns(desk, 60, rules)
    assert (told.count("guard_acted"), "foreign_order" in told) == (1, False)
    assert (desk.halted(), desk.state.risk.reconciled) == ("", True)
    assert desk.state.orders[name].purpose == "protection"


def test_a_stop_of_the_guard_that_sold_meanwhile_is_booked_at_its_price() -> None:
    desk = bare()
    cash, name = desk.state.book.cash, by_guard(desk, "SPY", 10, desk.at(20))
    desk.account.fill(name, 10, "54.00", desk.at(30))
    desk.put(ev.RunStarted(desk.at(60), "live", "d", "share_bars", "e1", "c", "sip", GUARDED))
    step = desk.core.step(desk.state, desk.account.report(desk.at(60, 1)))
    desk.state = step.state
    assert "SPY" not in desk.state.book.positions
    assert desk.state.book.cash == cash + 540
    moves = [row for row in step.rows if type(row).__name__ == "MoveRow"]
    assert [(row.reason, row.quantity) for row in moves] == [("resting_stop", -10)]  # type: ignore[union-attr]
    assert (desk.halted(), desk.state.risk.reconciled) == ("", True)


def test_each_fill_of_a_guard_s_stop_has_its_row_and_a_bust_gives_the_shares_back() -> None:
    """Four at 54.00 and three at 53.50; the exchange busts the second trade."""
    desk = bare()
    cash, name = desk.state.book.cash, by_guard(desk, "SPY", 10, desk.at(20))
    desk.account.fill(name, 4, "54.00", desk.at(30))
    desk.account.fill(name, 3, "53.50", desk.at(31))
    desk.put(ev.RunStarted(desk.at(60), "live", "d", "share_bars", "e1", "c", "sip", GUARDED))
    step = desk.core.step(desk.state, desk.account.report(desk.at(60, 1)))
    desk.state = step.state
    fills = [row for row in step.rows if isinstance(row, FillRow)]
    assert [(row.quantity, row.price) for row in fills] == [(4, "54.00"), (3, "53.50")]
    order, was_free = desk.account.orders[name], desk.account.positions["SPY"]
    desk.account.orders[name] = with_fields(order, filled=Decimal(4), average_price=Decimal(54))
    desk.account.positions["SPY"], desk.account.cash = (6, was_free[1]), desk.account.cash - Decimal("160.50")
    stands = ev.OrderFilled(
        desk.at(62), name, "SPY", -1, Decimal(54), desk.at(62), 4, Decimal(216), Decimal(0), 0, correction=1
    )
    desk.put(with_fields(desk.account.report(desk.at(62)), fills=(stands,)))
    assert (desk.state.book.positions["SPY"].quantity, desk.state.book.cash) == (6, cash + 216)
    assert (desk.halted(), desk.state.risk.reconciled) == ("", True)


@pytest.mark.parametrize("sale_quantity", [10, 4])
def test_a_stop_of_the_guard_is_booked_once_whatever_later_reports_repeat(sale_quantity: int) -> None:
    desk = bare()
    name = by_guard(desk, "SPY", 10, desk.at(20))
    desk.account.fill(name, sale_quantity, "54.00", desk.at(30))
    desk.account.end(name, "filled" if sale_quantity == 10 else "canceled")
    returns(desk, 60)
    cash = desk.state.book.cash
    begins = SESSIONS[1].open_ns - MINUTE
    desk.put(ev.SessionScheduled(begins, SESSIONS[1], SESSIONS[2:]))
    desk.put(desk.account.report(begins + 1))  # it reaches back a day and more, and has that order again
    position = desk.state.book.positions.get("SPY")
    assert (desk.state.book.cash, 0 if position is None else position.quantity) == (cash, 10 - sale_quantity)
    assert (desk.halted(), desk.state.risk.reconciled) == ("", True)


def test_a_stop_of_the_guard_that_sold_a_part_leaves_the_rest_covered() -> None:
    desk = bare()
    name = by_guard(desk, "SPY", 10, desk.at(20))
    desk.account.fill(name, 4, "54.00", desk.at(30))
    returns(desk, 60)
    assert desk.state.book.positions["SPY"].quantity == 6
    assert desk.state.orders[name].remaining == 6
    assert desk.halted() == ""


def test_it_moves_a_stop_of_the_guard_that_is_elsewhere_than_its_own_would_be() -> None:
    desk = bare()
    name = by_guard(desk, "SPY", 10, desk.at(20), price="40.00")
    returns(desk, 60)
    effects = desk.minute(61)
    assert name in {effect.client_order_id for effect in of(effects, CancelOrder)}


def test_a_guard_s_stop_of_more_than_is_held_ends_before_it_can_sell_short() -> None:
    desk = bare()
    name = by_guard(desk, "SPY", 14, desk.at(20))
    desk.put(ev.RunStarted(desk.at(60), "live", "d", "share_bars", "e1", "c", "sip", GUARDED))
    assert name in {effect.client_order_id for effect in of(desk.put(desk.account.report(desk.at(60, 1))), CancelOrder)}


def test_where_the_desk_rests_none_itself_it_takes_the_guard_s_away() -> None:
    unprotected = replace(GUARDED, protection=UNSET)
    desk = Desk(unprotected)
    desk.holds()
    name = by_guard(desk, "SPY", 10, desk.at(20))
    desk.put(ev.RunStarted(desk.at(60), "live", "d", "share_bars", "e1", "c", "sip", unprotected))
    effects = desk.put(desk.account.report(desk.at(60, 1)))
    assert name in {effect.client_order_id for effect in of(effects, CancelOrder)}
    assert desk.halted() == ""


def test_its_sale_takes_a_stop_of_the_guard_away_first() -> None:
    desk = bare()
    name = by_guard(desk, "SPY", 10, desk.at(20))
    returns(desk, 60)
    desk.minute(61)
    effects = desk.answer(0.0, 1.0)
    assert [effect.client_order_id for effect in of(effects, CancelOrder)] == [name]
    assert of(effects, SubmitOrder) == []


def test_a_desk_that_begins_anew_with_what_a_guard_s_stop_covers_ends_that_stop() -> None:
    former = bare()
    name = by_guard(former, "SPY", 10, former.at(20))
    desk = Desk(GUARDED)  # its journal is lost
    desk.state = desk.core.start(Identity("live", "d", "share_bars", "e2", "sip"), GUARDED)
    desk.account = former.account
    desk.put(ev.SessionScheduled(desk.at(60), MONDAY, SESSIONS[1:]), desk.account.report(desk.at(60, 1)))
    desk.put(ev.AcceptBrokerRequested(desk.at(61), "they are mine", "ann"))
    effects = desk.put(desk.account.report(desk.at(61, 1)))
    assert desk.state.book.positions["SPY"].quantity == 10
    assert name in {effect.client_order_id for effect in of(effects, CancelOrder)}


# --- entries that were cancelled --------------------------------------------------------------------------------------


def entering(rules: Trading) -> tuple[Desk, dict[str, str]]:
    """A desk whose two buys work at the broker."""
    desk = Desk(rules)
    desk.minute(0)
    names = {
        order.symbol: desk.account.take(order, desk.state.now_ns) for order in of(desk.answer(1.0, 1.0), SubmitOrder)
    }
    for name in names.values():
        desk.put(desk.account.found(name, desk.state.now_ns))
    return desk, names


def test_entries_that_the_guard_cancelled_halt_nothing_and_are_not_sent_again() -> None:
    desk, names = entering(GUARDED)
    for name in names.values():
        desk.account.end(name)
    assert "guard_acted" in returns(desk, 5)
    assert (desk.halted(), desk.state.works) == ("", {})


def test_without_a_guard_cancelled_entries_halt() -> None:
    desk, names = entering(RESTS)
    desk.account.end(names["SPY"])
    returns(desk, 5, RESTS)
    assert "foreign_order" in desk.halted()


# --- the fence --------------------------------------------------------------------------------------------------------


def test_a_fenced_desk_stands_halted_until_a_resume_which_lifts_the_fence() -> None:
    desk = Desk(GUARDED)
    desk.put(ev.RunStarted(desk.at(1), "live", "d", "share_bars", "e1", "c", "sip", GUARDED))
    desk.put(desk.account.report(desk.at(1, 1), blocked=FENCED))
    assert "fenced" in desk.halted()
    assert len(of(desk.put(ev.ResumeRequested(desk.at(2), "the host is back", "ann")), LiftFence)) == 1
    desk.put(desk.account.report(desk.at(2, 1), blocked=FENCED))  # read before the broker took it
    assert desk.halted() == ""
    desk.put(desk.account.report(desk.at(2, 5)))
    assert (desk.halted(), desk.state.broker.blocked) == ("", "")


def test_a_fence_is_told_by_its_halt_alone_and_another_block_by_its_own_alarm() -> None:
    desk = Desk(GUARDED)
    told = [alarms(desk.put(desk.account.report(desk.at(minute, 1), blocked=FENCED))) for minute in (1, 2)]
    assert told == [["fenced"], []]
    assert "account_blocked" in alarms(desk.put(desk.account.report(desk.at(3), blocked=f"trading_blocked, {FENCED}")))


def test_a_fence_that_does_not_lift_halts_again() -> None:
    desk = Desk(GUARDED)
    desk.put(desk.account.report(desk.at(1, 1), blocked=FENCED))
    desk.put(ev.ResumeRequested(desk.at(2), "the host is back", "ann"))
    desk.put(desk.account.report(desk.at(2, 11), blocked=FENCED))
    assert "fenced" in desk.halted()


def test_a_fence_around_something_that_is_held_lifts_at_once_and_the_halt_stays() -> None:
    desk, _ = protected(GUARDED)
    effects = desk.put(desk.account.report(desk.at(3, 1), blocked=FENCED))
    assert len(of(effects, LiftFence)) == 1
    assert "fenced" in desk.halted()
    assert of(desk.put(desk.account.report(desk.at(3, 5), blocked=FENCED)), LiftFence) == []  # on its way
    assert len(of(desk.put(desk.account.report(desk.at(3, 20), blocked=FENCED)), LiftFence)) == 1  # not taken: again
    desk.put(desk.account.report(desk.at(3, 30)))
    assert "fenced" in desk.halted()


def test_a_fence_stays_where_the_guard_closed_what_the_book_still_has() -> None:
    desk = bare()
    for symbol in ("SPY", "QQQ"):
        name = desk.account.take(SubmitOrder(f"close-{symbol}", symbol, -1, 10, None, "", 0), desk.at(20))
        desk.account.fill(name, 10, "60.00", desk.at(21))
    desk.put(ev.RunStarted(desk.at(60), "live", "d", "share_bars", "e1", "c", "sip", GUARDED))
    effects = desk.put(desk.account.report(desk.at(60, 1), blocked=FENCED))
    assert set(desk.state.book.positions) == {"SPY", "QQQ"}  # by broker.foreign_orders = "halt"
    assert (alarms(effects).count("fenced"), of(effects, LiftFence)) == (1, [])
    assert len(of(desk.put(ev.ResumeRequested(desk.at(61), "seen", "ann")), LiftFence)) == 1


def test_a_start_lifts_the_fence_that_a_resume_of_the_stopped_desk_could_not() -> None:
    desk = Desk(GUARDED)
    desk.put(desk.account.report(desk.at(1, 1), blocked=FENCED))
    desk.put(ev.ResumeRequested(desk.at(2), "the host is back", "ann"))  # and its process ends before it is sent
    start = ev.RunStarted(desk.at(9), "live", "d", "share_bars", "e1", "c", "sip", GUARDED)
    assert len(of(desk.put(start), LiftFence)) == 1
    desk.put(desk.account.report(desk.at(9, 1), blocked=FENCED))  # read before the broker took it
    desk.put(desk.account.report(desk.at(9, 11)))
    assert desk.halted() == ""
    assert of(desk.put(with_fields(start, time_ns=desk.at(10))), LiftFence) == []


def test_without_a_guard_the_account_s_setting_is_a_person_s_and_no_resume_changes_it() -> None:
    desk = Desk(RESTS)
    effects = desk.put(desk.account.report(desk.at(1, 1), blocked=FENCED))
    assert (desk.halted(), alarms(effects)) == ("", ["account_blocked"])
    assert of(desk.put(ev.ResumeRequested(desk.at(2), "why not", "ann")), LiftFence) == []


def test_a_reset_clock_leads_the_lifted_fence_back_too() -> None:
    desk = Desk(GUARDED)
    desk.put(desk.account.report(desk.at(1, 1), blocked=FENCED))
    desk.put(ev.ResumeRequested(desk.at(500), "the host is back", "ann"))
    desk.put(ev.ClockReset(desk.at(3), "chrony was wrong", "ann"))
    assert desk.state.broker.unfenced_ns == desk.at(3)


# --- what a heartbeat says --------------------------------------------------------------------------------------------


def test_the_heartbeat_has_what_is_held_and_the_stop_below_it() -> None:
    desk, names = protected(GUARDED)
    beat = heartbeat_of(desk.state, desk.core.desk, "paper-1", 1, 2, 3, leaving=False)
    assert {
        symbol: tuple(getattr(holding, key) for key in holding.__struct_fields__)
        for symbol, holding in beat.holds.items()
    } == {
        "SPY": (10, 0, STOP, None),
        "QQQ": (10, 0, STOP, None),
    }
    buys = {"e1-share_bars-1-0-0": 10, "e1-share_bars-1-1-0": 10}  # of each ten, two minutes and less ago
    assert beat.orders == {**dict.fromkeys(names.values(), 0), **buys}
    asked_ns = desk.state.broker.asked_ns
    assert 0 < beat.known_ns == asked_ns
    desk.put(ev.RunStarted(desk.at(19), "live", "d", "share_bars", "e1", "c", "sip", GUARDED))
    desk.tick(20, 0)
    later = heartbeat_of(desk.state, desk.core.desk, "paper-1", 1, 3, 4, leaving=False)
    assert later.orders == dict.fromkeys(names.values(), 0)
    assert later.known_ns == asked_ns  # a start has not looked yet
    assert beat.names == "e1-share_bars-"
    assert beat.account == "PA3TEST"


def test_an_option_s_stop_bears_its_floor_and_a_daily_desk_s_follows_the_close() -> None:
    calls, _ = holding_calls(LIMITED)
    (cover,) = cover_of(Draft(calls.state, calls.core.desk)).values()
    assert cover == Cover(9, 0, Decimal("1.10"), Decimal("0.55"))  # 45 % below 2.00; half of it
    desk, _, _ = daily()
    assert cover_of(Draft(desk.state, desk.core.desk)) == {"AAA": Cover(10, 0, Decimal("80.00"), None)}


def test_a_desk_that_rests_none_tells_no_stop() -> None:
    desk = Desk(replace(GUARDED, protection=UNSET))
    desk.holds()
    assert cover_of(Draft(desk.state, desk.core.desk))["SPY"] == Cover(10, 0, None, None)
