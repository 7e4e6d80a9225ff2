"""Entries that the broker lacks: sent again under their own name within their time, or given up.

The broker's answers are those of its documentation; quantities and money are computed by hand.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AskBroker
from daemon.core.limits import Execution, Trading
from daemon.core.orders import ACCEPTED, CANCELING, EXPIRED, SUBMITTED, UNKNOWN
from tests.support.core.account import Account, agreed, at_broker
from tests.support.core.desk import BUY_CALL, MINUTE, TUESDAY, alarms, of, sent
from tests.support.core.lost_orders import leaving, look_ups, lost, resent, submitted


def test_an_entry_that_never_arrived_is_sent_again_under_its_own_name_within_its_time() -> None:
    d = at_broker(Account())
    name = lost(d)
    first = d.order(name)
    again = sent(d.put(ev.OrderMissing(d.at(1, 8), name)))
    assert (again.client_order_id, again.quantity, again.limit_price) == (name, 9, first.limit_price)
    assert (again.intent, again.valid_until_ns) == ("buy_to_open", first.submitted_ns + MINUTE)
    assert d.order(name).status == SUBMITTED
    assert look_ups(d.tick(1, 12)) == []
    assert look_ups(d.tick(1, 13)) == []  # in hand again
    assert look_ups(d.put(ev.OrderUnknown(d.at(1, 14), name))) == [name]


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


@pytest.mark.parametrize(("report_s", "times"), [(None, 0), (5, 0), (7, 1)])
def test_after_a_loss_of_news_a_missing_entry_is_sent_again_once_all_else_agreed_since_then(
    report_s: int | None, times: int
) -> None:
    d = at_broker(account := Account())
    name = lost(d)
    if report_s == 5:
        d.put(account.report(d.at(1, 5)))
    d.put(ev.BrokerLost(d.at(1, 6), "the stream ended"))
    if report_s == 7:
        d.put(account.report(d.at(1, 7)))
        assert not d.state.risk.reconciled  # because of the very order that nobody knows
    assert resent(d.put(ev.OrderMissing(d.at(1, 8), name))) == [(name, 9)] * times


def test_a_report_that_differs_sends_no_missing_entry_again() -> None:
    d = at_broker(account := Account())
    name = lost(d)
    d.put(ev.BrokerLost(d.at(1, 6), "the stream ended"))
    account.cash -= 500
    d.put(account.report(d.at(1, 7)))
    assert resent(d.put(ev.OrderMissing(d.at(1, 8), name))) == []


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
    assert look_ups(d.put(ev.OrderMissing(d.at(3), name))) == []
    assert [look_ups(d.tick(3, 59)), look_ups(d.tick(4)), look_ups(d.tick(4, 5))] == [[], [name], []]


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
    effects = d.put(ev.OrderMissing(d.at(1, 4), name))  # the broker may not show it yet: five seconds are given
    assert (look_ups(effects), alarms(effects), resent(effects)) == ([name], [], [])
    assert alarms(d.put(ev.OrderMissing(d.at(1, 8), name))) == ["order_lost"]
    assert (d.order(name).status, resent(d.effects)) == (EXPIRED, [(name, 9)])
    assert len(of(d.effects, AskBroker)) == 1


def test_an_answer_that_an_order_is_missing_is_asked_for_again_when_it_may_be_older_than_its_acceptance() -> None:
    d = at_broker(account := Account())
    sale = leaving(d, account)
    d.put(ev.OrderAccepted(d.at(2, 6), sale, "id-sale"))
    effects = d.put(ev.OrderMissing(d.at(2, 10), sale))
    assert (look_ups(effects), alarms(effects), d.order(sale).status) == ([sale], [], ACCEPTED)


def test_an_exit_that_was_accepted_once_and_is_missing_is_followed_by_the_next_attempt() -> None:
    d = at_broker(account := Account())
    sale = leaving(d, account)
    d.put(ev.OrderAccepted(d.at(2, 6), sale, "id-sale"))
    effects = d.put(ev.OrderMissing(d.at(2, 11), sale))  # the look-up was asked for before the acceptance
    assert (look_ups(effects), alarms(effects), resent(effects)) == ([sale], [], [])
    effects = d.put(ev.OrderMissing(d.at(2, 12), sale))
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
