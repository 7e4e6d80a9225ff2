"""Orders whose fate is asked for: found and taken over only when they match, missing and sent again only when wanted.

The broker's answers are those of its documentation; quantities and money are computed by hand.
"""

from __future__ import annotations

from dataclasses import replace as configured
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AskBroker, LookUpOrder, SubmitOrder
from daemon.core.limits import Execution, Risk, Sizing, Trading
from daemon.core.orders import ACCEPTED, CANCELED, CANCELING, EXPIRED, FILLED, PARTIAL, REJECTED, SUBMITTED, UNKNOWN
from daemon.core.records import FillRow
from tests.core.account import Account, agreed, at_broker
from tests.core.desk import (
    BUY_CALL,
    CALL,
    EXIT,
    MINUTE,
    PUT,
    SECOND,
    TUESDAY,
    Desk,
    alarms,
    canceling,
    of,
    quote,
    sent,
)


def submitted(d: Desk, account: Account, minute: int = 0) -> str:
    """An entry of 9 at 2.12 that the desk sent and the account took, of which the desk heard nothing."""
    d.bar(minute)
    return account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)


def lost(d: Desk, minute: int = 0) -> str:
    """An entry that never reached the broker: the post was not answered."""
    d.bar(minute)
    name = sent(d.answer(BUY_CALL)).client_order_id
    d.put(ev.OrderUnknown(d.at(minute + 1, 5), name))
    return name


def asked(effects: list[Any]) -> list[str]:
    return [effect.client_order_id for effect in of(effects, LookUpOrder)]


def resent(effects: list[Any]) -> list[tuple[str, int]]:
    return [(effect.client_order_id, effect.quantity) for effect in of(effects, SubmitOrder)]


def rows(d: Desk) -> list[tuple[int, int]]:
    """(correction, cumulative) of the fills told so far."""
    return [(row.correction, row.cumulative) for row in d.rows if isinstance(row, FillRow)]


# --- when it is asked ---------------------------------------------------------------------------------------------


def test_an_order_without_an_answer_is_looked_up_after_five_seconds_and_again_after_five_more() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    assert asked(d.tick(1, 4)) == []
    assert [asked(d.tick(1, second)) for second in (5, 6, 9, 10)] == [[name], [], [], [name]]


def test_an_order_whose_sending_was_lost_in_a_crash_is_looked_up_and_stays_unknown_while_unreconciled() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    first = sent(d.answer(BUY_CALL))
    d.put(ev.RunStarted(d.at(1, 1), "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading))
    name = first.client_order_id
    assert asked(d.put(account.report(d.at(1, 3)))) == [name]  # it does not list the order
    assert (d.order(name).status, d.state.risk.reconciled) == (SUBMITTED, False)
    d.put(ev.OrderMissing(d.at(1, 5), name))
    assert (d.order(name).status, resent(d.effects)) == (UNKNOWN, [(name, 9)])  # no new risk while unreconciled


def test_an_order_that_a_report_does_not_list_is_asked_for_once_and_only_when_it_was_sent_before_it() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = sent(d.answer(BUY_CALL)).client_order_id
    before = replace(account.report(d.at(1, 2)), asked_ns=d.at(1))
    assert asked(d.put(before)) == []
    after = account.report(d.at(1, 3))
    assert [asked(d.put(after)), asked(d.put(after))] == [[name], []]


def test_a_cancel_that_nobody_answers_is_looked_up() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(ev.OrderAccepted(d.at(1), name, f"id-{name}"))
    assert canceling(d.put(ev.PauseRequested(d.at(1, 10), "news", "ann"))) == [name]
    assert asked(d.tick(1, 14)) == []
    assert asked(d.tick(1, 15)) == [name]
    account.end(name)
    d.put(account.found(name, d.at(1, 16)))
    assert d.order(name).status == CANCELED


def test_what_works_and_was_accepted_is_not_looked_up() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(ev.OrderAccepted(d.at(1), name, f"id-{name}"))
    assert asked(d.tick(1, 50)) == []


# --- found --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "ours"),
    [
        ("new", ACCEPTED), ("accepted", ACCEPTED), ("pending_new", ACCEPTED), ("accepted_for_bidding", ACCEPTED),
        ("pending_review", ACCEPTED), ("held", ACCEPTED), ("stopped", ACCEPTED), ("suspended", ACCEPTED),
        ("calculated", ACCEPTED), ("pending_replace", ACCEPTED), ("pending_cancel", CANCELING),
        ("canceled", CANCELED), ("replaced", CANCELED), ("done_for_day", EXPIRED), ("expired", EXPIRED),
        ("rejected", REJECTED),
    ],
)  # fmt: skip
def test_a_found_order_is_where_the_broker_says(status: str, ours: str) -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(ev.OrderUnknown(d.at(1, 5), name))
    account.end(name, status)
    d.put(account.found(name, d.at(1, 6)))
    assert (d.order(name).status, d.order(name).order_id) == (ours, f"id-{name}")
    assert d.state.risk.outcomes == (status == "rejected",)
    assert ("order_rejected" in alarms(d.effects)) == (status == "rejected")


def test_a_status_of_a_kind_never_heard_of_is_told_once_and_its_figures_still_count() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    account.fill(name, 4, "2.00", d.at(1))
    account.end(name, "quantum_superposed")
    effects = d.put(account.found(name, d.at(1, 6)), account.found(name, d.at(1, 7)))
    assert (alarms(effects), d.order(name).status, d.held) == (["unknown_status"], PARTIAL, {CALL: 4})


def test_the_same_news_by_two_ways_count_one_outcome() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.found(name, d.at(1, 1)), ev.OrderAccepted(d.at(1, 2), name, f"id-{name}"))
    assert d.state.risk.outcomes == (False,)


def test_an_order_that_was_accepted_and_is_found_rejected_counts_as_it_does_when_the_stream_tells() -> None:
    outcomes = []
    for by_stream in (True, False):
        d = at_broker(account := Account())
        name = submitted(d, account)
        d.put(ev.OrderAccepted(d.at(1), name, f"id-{name}"))
        account.end(name, "rejected")
        d.put(ev.OrderRejected(d.at(1, 1), name, "no") if by_stream else account.found(name, d.at(1, 1)))
        outcomes.append((d.state.risk.outcomes, alarms(d.effects), d.order(name).status))
    assert outcomes == [((False, True), ["order_rejected"], REJECTED)] * 2


@pytest.mark.parametrize(
    "other",
    [
        {"symbol": PUT}, {"side": -1}, {"quantity": Decimal(8)}, {"quantity": Decimal("9.5")},
        {"intent": "sell_to_open"}, {"filled": Decimal(10), "average_price": Decimal(2)},
    ],
    ids=["symbol", "side", "quantity", "fraction", "intent", "overfilled"],
)  # fmt: skip
def test_an_order_found_under_our_name_that_is_not_what_was_sent_halts_and_books_nothing(other: dict[str, Any]) -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(ev.OrderFound(d.at(1, 6), replace(account.orders[name], **other)))
    assert (d.halted(), d.state.risk.reconciled, d.held) == ("order_mismatch", False, {})
    assert "sent +1 9 " + CALL in str(d.state.risk.halt)


@pytest.mark.parametrize(("early_s", "halted"), [(600, ""), (601, "order_mismatch")])
def test_an_order_that_was_submitted_long_before_ours_is_another_one(early_s: int, halted: str) -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    sent_ns = d.order(name).submitted_ns
    d.put(ev.OrderFound(d.at(1, 6), replace(account.orders[name], submitted_ns=sent_ns - early_s * SECOND)))
    assert d.halted() == halted


def test_an_intent_that_the_broker_does_not_tell_is_no_difference() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(ev.OrderFound(d.at(1, 6), replace(account.orders[name], intent="")))
    assert (d.halted(), d.order(name).status) == ("", ACCEPTED)


# --- totals and executions ----------------------------------------------------------------------------------------


def test_a_look_up_tells_the_totals_first_and_the_executions_come_later_once_each() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    told = [account.fill(name, n, price, d.at(1)) for n, price in ((2, "2.00"), (3, "2.05"), (4, "2.10"))]
    d.put(account.found(name, d.at(1, 6)))
    # 2 x 2.00 + 3 x 2.05 + 4 x 2.10 = 18.55 USD a share
    assert (d.held, d.state.book.cash, rows(d)) == ({CALL: 9}, Decimal("8145.00"), [])
    for fill in (told[2], told[0], told[2], told[1], told[0]):
        d.put(fill)
    assert (sorted(rows(d)), d.state.book.cash) == ([(0, 2), (0, 5), (0, 9)], Decimal("8145.00"))
    agreed(d, account, 2)
    assert (len(rows(d)), d.state.stats.fills, d.state.stats.partial_fills) == (3, 3, 2)


def test_an_execution_told_out_of_order_is_told_when_it_comes_and_books_nothing() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    first, second = account.fill(name, 2, "2.00", d.at(1)), account.fill(name, 1, "2.06", d.at(1))
    d.put(second)
    assert (d.held, d.state.book.cash) == ({CALL: 3}, Decimal("9394.00"))
    d.put(first, second, first)
    assert (d.held, d.state.book.cash, rows(d)) == ({CALL: 3}, Decimal("9394.00"), [(0, 3), (0, 2)])


@pytest.mark.parametrize("old", ["behind", "without a price", "filled, with other figures"])
def test_an_old_or_unfinished_answer_turns_nothing_back(old: str) -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    early = account.orders[name]
    d.put(account.fill(name, 4, "2.00", d.at(1)))
    now = account.orders[name]
    answer = {
        "behind": replace(early, status="canceled"),
        "without a price": replace(now, filled=Decimal(9), average_price=None, status="filled"),
        "filled, with other figures": replace(now, status="filled"),
    }[old]
    d.put(ev.OrderFound(d.at(1, 6), answer))
    assert (d.order(name).status, d.held, d.state.book.cash) == (PARTIAL, {CALL: 4}, Decimal(9200))


def test_an_average_that_the_broker_rounded_still_gives_the_cents_that_were_paid() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    for n, price in ((1, "2.00"), (5, "2.01"), (1, "2.05")):
        account.fill(name, n, price, d.at(1))
    rounded = replace(account.orders[name], average_price=Decimal("2.014286"))  # 14.10 / 7
    d.put(ev.OrderFound(d.at(1, 6), rounded))
    assert d.state.book.cash == Decimal("8590.00")


# --- corrections --------------------------------------------------------------------------------------------------


def test_a_bust_by_the_stream_takes_contracts_back_once_and_its_replays_change_nothing() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    for n in (5, 4):
        d.put(account.fill(name, n, "2.00", d.at(1)))
    bust = ev.TradeCorrected(d.at(2), name, "x1", 5, Decimal(10), "trade_bust")
    assert alarms(d.put(bust)) == ["trade_corrected"]
    assert (d.held, d.state.book.cash, d.order(name).correction) == ({CALL: 5}, Decimal(9000), 1)
    assert d.put(bust) == []
    assert (d.held, rows(d)) == ({CALL: 5}, [(0, 5), (0, 9), (1, 5)])


def test_after_a_bust_the_old_totals_of_a_replay_are_looked_up_instead_of_booked() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    whole = account.fill(name, 9, "2.00", d.at(1))
    d.put(whole, ev.TradeCorrected(d.at(2), name, "x1", 5, Decimal(10), "trade_bust"))
    assert asked(d.put(whole)) == [name]
    assert (d.held, d.state.book.cash) == ({CALL: 5}, Decimal(9000))
    stands = replace(account.orders[name], filled=Decimal(5), average_price=Decimal(2))
    d.put(ev.OrderFound(d.at(2, 6), stands))
    assert (d.held, d.order(name).correction) == ({CALL: 5}, 1)
    assert asked(d.put(replace(whole, cumulative_quantity=5, quantity=5))) == []


def test_a_corrected_order_s_totals_are_set_as_found_also_when_they_are_less() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.put(ev.TradeCorrected(d.at(2), name, "x1", 9, Decimal("18.90"), "trade_correct"))
    assert d.state.book.cash == Decimal(8110)
    found = replace(account.orders[name], filled=Decimal(8), average_price=Decimal("2.10"))
    d.put(ev.OrderFound(d.at(3), found), ev.OrderFound(d.at(3, 1), found))
    assert (d.held, d.state.book.cash, d.order(name).correction) == ({CALL: 8}, Decimal(8320), 2)
    more = replace(found, filled=Decimal(9))
    d.put(ev.OrderFound(d.at(4), more))
    assert (d.held, d.state.book.cash, d.order(name).correction) == ({CALL: 9}, Decimal(8110), 2)


def test_a_wholly_busted_order_holds_nothing() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.put(ev.TradeCorrected(d.at(2), name, "x1", 0, Decimal(0), "trade_bust"))
    assert (d.held, d.state.book.cash, d.state.book.realized) == ({}, Decimal(10000), Decimal(0))


def test_a_bust_of_a_purchase_that_was_sold_already_halts_because_the_book_cannot_say_it() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.bar(1)
    sale = account.take(sent(d.answer(EXIT)), d.state.now_ns)
    d.put(account.fill(sale, 9, "2.10", d.at(2)))
    d.put(ev.TradeCorrected(d.at(3), name, "x1", 5, Decimal(10), "trade_bust"))
    assert (d.halted(), d.held, d.state.risk.reconciled) == ("fill_mismatch", {}, False)


def test_a_bust_of_an_order_that_is_not_known_is_a_stranger_s() -> None:
    d = at_broker(Account())
    assert alarms(d.put(ev.TradeCorrected(d.at(2), "by-hand", "x1", 0, Decimal(0), "trade_bust"))) == ["foreign_order"]


# --- missing ------------------------------------------------------------------------------------------------------


def test_an_entry_that_never_arrived_is_sent_again_under_its_own_name_within_its_time() -> None:
    d = at_broker(Account())
    name = lost(d)
    first = d.order(name)
    again = sent(d.put(ev.OrderMissing(d.at(1, 8), name)))
    assert (again.client_order_id, again.quantity, again.limit_price) == (name, 9, first.limit_price)
    assert (again.intent, again.valid_until_ns) == ("buy_to_open", first.submitted_ns + MINUTE)
    assert d.order(name).status == SUBMITTED
    assert asked(d.tick(1, 12)) == []
    assert asked(d.tick(1, 13)) == [name]  # and chased again


@pytest.mark.parametrize(("second", "times"), [(60, 1), (61, 0)])
def test_an_entry_is_never_sent_again_past_its_validity(second: int, times: int) -> None:
    d = at_broker(Account(), trading=Trading(execution=Execution(entry_reprice_s=60)))
    name = lost(d)
    assert len(resent(d.put(ev.OrderMissing(d.at(1, second), name)))) == times


@pytest.mark.parametrize("why", ["unreconciled", "halted", "paused", "stopping", "cancelled", "given up", "filled up"])
def test_a_missing_entry_is_not_sent_again_where_new_risk_is_not_wanted_and_counts_as_exposure(why: str) -> None:
    d = at_broker(Account())
    name = lost(d)
    match why:
        case "unreconciled":
            d.put(ev.BrokerLost(d.at(1, 6), "stream ended"))
        case "halted":
            d.put(ev.HaltRequested(d.at(1, 6), "operator", "x", "ann"))
        case "paused":
            d.put(ev.PauseRequested(d.at(1, 6), "x", "ann"))
        case "stopping":
            d.put(ev.StopRequested(d.at(1, 6), "x", flatten=False))
        case "cancelled":
            late = replace(d.order(name), cancel_asked_ns=d.at(1, 5))
            d.state = replace(d.state, orders={name: late})
        case "given up":
            d.state = replace(d.state, works={})
        case _:
            (work,) = d.state.works.values()
            d.state = replace(d.state, works={work.key: replace(work, goal=8)})  # as after a late fill of one
    assert resent(d.put(ev.OrderMissing(d.at(1, 8), name))) == []
    assert (d.order(name).status, d.order(name).remaining) == (UNKNOWN, 9)


def test_a_missing_entry_past_its_time_stays_unknown_until_its_session_is_over_and_then_lapses() -> None:
    d = at_broker(account := Account())
    name = lost(d)
    for minute in (3, 10, 200):
        assert resent(d.put(ev.OrderMissing(d.at(minute), name))) == []
        assert d.order(name).status == UNKNOWN
    d.bar(200)
    d.answer(BUY_CALL)
    assert {"duplicate_intent", "max_position"} <= set(d.state.stats.denials)
    d.put(ev.SessionEnded(d.at(390), d.session.date))
    d.put(ev.OrderMissing(d.at(390, 5), name))
    assert d.order(name).status == EXPIRED
    agreed(d, account, 391)


def test_an_order_that_the_broker_lacks_is_asked_for_once_a_minute_and_not_every_five_seconds() -> None:
    d = at_broker(Account())
    name = lost(d)
    assert asked(d.put(ev.OrderMissing(d.at(3), name))) == []
    assert [asked(d.tick(3, 59)), asked(d.tick(4)), asked(d.tick(4, 5))] == [[], [name], []]


def test_an_order_of_an_earlier_session_that_is_missing_lapsed() -> None:
    d = at_broker(Account())
    name = lost(d)
    d.begin(TUESDAY, "2024-07-03")
    d.put(ev.OrderMissing(d.at(1), name))
    assert d.order(name).status == EXPIRED


def test_an_order_that_was_accepted_once_and_is_missing_is_lost_told_and_not_sent_again() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(ev.OrderAccepted(d.at(1), name, f"id-{name}"))
    assert alarms(d.put(ev.OrderMissing(d.at(1, 8), name))) == ["order_lost"]
    assert (d.order(name).status, resent(d.effects)) == (EXPIRED, [(name, 9)])
    assert len(of(d.effects, AskBroker)) == 1


def test_an_answer_that_an_order_is_missing_is_asked_for_again_when_it_may_be_older_than_its_acceptance() -> None:
    d = at_broker(account := Account())
    sale = leaving(d, account)
    d.put(ev.OrderAccepted(d.at(2, 6), sale, "id-sale"))
    effects = d.put(ev.OrderMissing(d.at(2, 10), sale))
    assert (asked(effects), alarms(effects), d.order(sale).status) == ([sale], [], ACCEPTED)


def test_an_exit_that_was_accepted_once_and_is_missing_is_followed_by_the_next_attempt() -> None:
    d = at_broker(account := Account())
    sale = leaving(d, account)
    d.put(ev.OrderAccepted(d.at(2, 6), sale, "id-sale"))
    effects = d.put(ev.OrderMissing(d.at(2, 11), sale))
    assert (alarms(effects), resent(effects)) == (["order_lost"], [("e1-pointer-2-1-1", 9)])


@pytest.mark.parametrize("how", ["by a fill before its cancel", "by a look-up with an odd status"])
def test_an_order_that_the_broker_once_showed_to_know_is_never_sent_again(how: str) -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    if how == "by a fill before its cancel":
        d.put(account.fill(name, 1, "2.00", d.at(1)), ev.PauseRequested(d.at(1, 1), "x", "ann"))
        assert d.order(name).status == CANCELING
    else:
        account.end(name, "quantum_superposed")
        d.put(account.found(name, d.at(1, 1)))
    assert "order_lost" in alarms(d.put(ev.OrderMissing(d.at(1, 8), name)))
    assert resent(d.effects) == [(name, 9)]


def test_news_about_a_missing_order_that_ended_or_was_never_ours_change_nothing() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    assert d.put(ev.OrderMissing(d.at(1, 8), name), ev.OrderMissing(d.at(1, 8), "by-hand")) == []


def leaving(d: Desk, account: Account) -> str:
    """9 calls held, and an exit of all that got no answer."""
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.bar(1)
    sale = sent(d.answer(EXIT)).client_order_id
    d.put(ev.OrderUnknown(d.at(2, 5), sale))
    return sale


def test_a_missing_exit_is_sent_again_while_it_is_needed_also_late_halted_and_unreconciled() -> None:
    d = at_broker(account := Account())
    sale = leaving(d, account)
    d.put(ev.BrokerLost(d.at(2, 6), "stream ended"), ev.HaltRequested(d.at(2, 6), "operator", "x", "ann"))
    for minute in (3, 4, 100):
        assert resent(d.put(ev.OrderMissing(d.at(minute), sale))) == [(sale, 9)]


def test_a_missing_exit_of_more_than_is_left_gives_way_to_a_smaller_one() -> None:
    d = at_broker(account := Account())
    sale = leaving(d, account)
    position = d.state.book.positions[CALL]
    left = replace(position, quantity=4, cost=Decimal(8))
    book = replace(d.state.book, positions={CALL: left}, realized=Decimal(-1000))
    d.state = replace(d.state, book=book)
    effects = d.put(ev.OrderMissing(d.at(2, 8), sale))
    assert d.order(sale).status == EXPIRED
    (again,) = of(effects, SubmitOrder)
    assert (again.quantity, again.client_order_id) == (4, "e1-pointer-2-1-1")


def test_an_exit_that_is_missing_after_the_close_is_not_sent_again() -> None:
    d = at_broker(account := Account())
    sale = leaving(d, account)
    assert resent(d.put(ev.OrderMissing(d.session.close_ns, sale))) == []


def test_an_entry_that_the_broker_lacks_holds_up_no_exit() -> None:
    rules = Trading(risk=Risk(orders_per_minute=50), execution=Execution(entry_reprice_s=30))
    d = at_broker(account := Account(), trading=rules)
    name = submitted(d, account)
    d.put(ev.OrderAccepted(d.at(1), name, f"id-{name}"), account.fill(name, 4, "2.00", d.at(1, 1)))
    d.quotes(1, quote(CALL), second=29)
    assert canceling(d.quotes(1, quote(CALL), second=30)) == [name]
    account.end(name)
    second = sent(d.put(ev.OrderCanceled(d.at(1, 31), name))).client_order_id
    d.put(ev.OrderUnknown(d.at(1, 36), second))
    held_up = d.quotes(1, quote(CALL, "1.20", "1.24"), second=37)  # the stop; the buy may live: no wash trade
    assert (of(held_up, SubmitOrder), d.order(second).status) == ([], UNKNOWN)
    sale = sent(d.put(ev.OrderMissing(d.at(1, 39), second)))
    assert (sale.side, sale.quantity) == (-1, 4)
    assert (d.order(second).status, d.order(second).remaining) == (UNKNOWN, 5)  # still exposure


def test_a_refused_exit_asks_what_the_broker_holds() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.bar(1)
    sale = sent(d.answer(EXIT)).client_order_id
    effects = d.put(ev.OrderRejected(d.at(2, 1), sale, "insufficient qty available"))
    assert of(effects, AskBroker) != []


def test_an_exit_sells_no_more_than_the_broker_would_let_go() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    said = account.report(d.at(1, 30))
    (position,) = said.positions
    d.put(replace(said, positions=(replace(position, available=Decimal(6)),)))
    d.bar(1)
    assert sent(d.answer(EXIT)).quantity == 6


def test_nothing_is_sold_while_the_broker_holds_all_of_it_back() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    said = account.report(d.at(1, 30))
    (position,) = said.positions
    d.put(replace(said, positions=(replace(position, available=Decimal(0)),)))
    d.bar(1)
    assert of(d.answer(EXIT), SubmitOrder) == []
    assert sent(d.put(account.report(d.at(2, 30)))).quantity == 9


def test_nothing_is_sold_that_the_broker_does_not_hold() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    d.put(replace(account.report(d.at(1, 30)), positions=()))  # gone there, by a bust nobody told
    d.bar(1)
    assert of(d.answer(EXIT), SubmitOrder) == []
    assert sent(d.put(account.report(d.at(2, 30)))).quantity == 9  # it was an answer in the middle of a change


def test_late_news_of_an_order_from_an_earlier_session_asks_for_a_report() -> None:
    d = at_broker(Account())
    (asking,) = of(d.put(ev.OrderCanceled(d.at(1), "e1-pointer-77-0-0")), AskBroker)
    assert "e1-pointer-77-0-0" in asking.why
    assert d.state.risk.reconciled


def test_a_lost_broker_takes_no_new_risk_until_a_report_agrees() -> None:
    d = at_broker(account := Account())
    told = d.put(ev.BrokerLost(d.at(0, 1), "stream ended"), ev.BrokerLost(d.at(0, 2), "again"))
    assert alarms(told) == ["broker_lost"]
    d.bar(0)
    d.answer(BUY_CALL)
    assert list(d.state.stats.denials) == ["not_reconciled"]
    agreed(d, account, 1, 10)
    d.bar(1)
    assert sent(d.answer(BUY_CALL)).quantity == 9


def test_while_an_order_is_unknown_a_report_reconciles_nothing_that_was_not() -> None:
    d = at_broker(account := Account(), trading=Trading(sizing=configured(Sizing(), max_contracts=1)))
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(ev.OrderUnknown(d.at(1, 5), name))
    unlisted = replace(account.report(d.at(1, 6)), open_orders=())
    d.put(ev.BrokerLost(d.at(1, 6), "x"), unlisted)
    assert not d.state.risk.reconciled
    agreed(d, account, 1, 10)
    assert d.order(name).status == ACCEPTED
    d.put(account.fill(name, 1, "2.00", d.at(1, 11)))
    assert d.order(name).status == FILLED
