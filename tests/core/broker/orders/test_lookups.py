"""Orders whose fate is asked for: when the broker is asked, and found orders taken over only when they match.

The broker's answers are those of its documentation; quantities and money are computed by hand.
"""

from __future__ import annotations

from dataclasses import replace as configured
from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AskBroker
from daemon.core.limits import Sizing, Trading
from daemon.core.orders import (
    ACCEPTED,
    CANCELED,
    CANCELING,
    EXPIRED,
    FILLED,
    PARTIAL,
    REJECTED,
    SUBMITTED,
    UNKNOWN,
)
from tests.support.core.account import Account, agreed, at_broker
from tests.support.core.desk import BUY_CALL, CALL, PUT, SECOND, alarms, canceling, of, sent
from tests.support.core.lost_orders import look_ups, resent, submitted


def test_an_order_of_unknown_fate_is_looked_up_after_five_seconds_and_again_after_five_more() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    assert look_ups(d.put(ev.OrderUnknown(d.at(1), name))) == [name]
    assert [look_ups(d.tick(1, second)) for second in (4, 5, 6, 9, 10)] == [[], [name], [], [], [name]]


@pytest.mark.parametrize("cancelled", [False, True])
def test_an_order_that_still_waits_in_our_own_queue_is_never_looked_up_nor_unknown(*, cancelled: bool) -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = sent(d.answer(BUY_CALL)).client_order_id
    if cancelled:
        assert canceling(d.put(ev.PauseRequested(d.at(1), "news", "ann"))) == [name]
    effects = [effect for second in range(1, 30) for effect in d.tick(1, second)]
    effects += d.put(account.report(d.at(1, 30)))  # it does not list the order
    assert look_ups(effects) == []
    assert d.order(name).status == (CANCELING if cancelled else SUBMITTED)
    d.put(ev.OrderExpired(d.at(1, 40), name))  # its time passed there
    assert d.order(name).status == EXPIRED


@pytest.mark.parametrize("cancelled", [False, True])
def test_a_post_without_an_answer_makes_it_unknown_also_when_its_cancel_was_asked_for(*, cancelled: bool) -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    if cancelled:
        d.put(ev.PauseRequested(d.at(1), "news", "ann"))
    assert look_ups(d.put(ev.OrderUnknown(d.at(1, 20), name))) == [name]
    d.put(account.found(name, d.at(1, 22)))
    assert d.order(name).status == ACCEPTED
    assert canceling(d.tick(1, 31)) == ([name] if cancelled else [])  # asked for again


def test_an_order_whose_sending_was_lost_in_a_crash_is_looked_up_and_sent_again_when_all_else_agrees() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    first = sent(d.answer(BUY_CALL))
    d.put(ev.RunStarted(d.at(1, 1), "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading))
    name = first.client_order_id
    assert look_ups(d.put(account.report(d.at(1, 3)))) == [name]  # it does not list the order
    assert (d.order(name).status, d.state.risk.reconciled) == (UNKNOWN, False)
    again = resent(d.put(ev.OrderMissing(d.at(1, 5), name)))
    assert (d.order(name).status, again) == (SUBMITTED, [(name, 9)])


def test_an_order_whose_sending_was_lost_in_a_crash_stays_unknown_before_the_broker_was_heard() -> None:
    d = at_broker(Account())
    d.bar(0)
    name = sent(d.answer(BUY_CALL)).client_order_id
    d.put(ev.RunStarted(d.at(1, 1), "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading))
    assert resent(d.put(ev.OrderMissing(d.at(1, 5), name))) == []
    assert d.order(name).status == UNKNOWN


def test_an_order_that_a_report_does_not_list_is_asked_for_once_and_only_when_it_was_sent_before_it() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = sent(d.answer(BUY_CALL)).client_order_id
    d.put(ev.OrderAccepted(d.at(1), name, "id"))
    before = replace(account.report(d.at(1, 2)), asked_ns=d.at(1))
    assert look_ups(d.put(before)) == []
    after = account.report(d.at(1, 3))
    assert [look_ups(d.put(after)), look_ups(d.put(after))] == [[name], []]


def test_a_cancel_that_nobody_answers_is_looked_up() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(ev.OrderAccepted(d.at(1), name, f"id-{name}"))
    assert canceling(d.put(ev.PauseRequested(d.at(1, 10), "news", "ann"))) == [name]
    assert look_ups(d.tick(1, 14)) == []
    assert look_ups(d.tick(1, 15)) == [name]
    account.end(name)
    d.put(account.found(name, d.at(1, 16)))
    assert d.order(name).status == CANCELED


def test_what_works_and_was_accepted_is_not_looked_up() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(ev.OrderAccepted(d.at(1), name, f"id-{name}"))
    assert look_ups(d.tick(1, 50)) == []


# --- found --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "own_status"),
    [
        ("new", ACCEPTED), ("accepted", ACCEPTED), ("pending_new", ACCEPTED), ("accepted_for_bidding", ACCEPTED),
        ("pending_review", ACCEPTED), ("held", ACCEPTED), ("stopped", ACCEPTED), ("suspended", ACCEPTED),
        ("calculated", ACCEPTED), ("pending_replace", ACCEPTED), ("pending_cancel", CANCELING),
        ("canceled", CANCELED), ("replaced", CANCELED), ("done_for_day", ACCEPTED), ("expired", EXPIRED),
        ("rejected", REJECTED),
    ],
)  # fmt: skip
def test_a_found_order_is_where_the_broker_says(status: str, own_status: str) -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(ev.OrderUnknown(d.at(1, 5), name))
    account.end(name, status)
    d.put(account.found(name, d.at(1, 6)))
    assert (d.order(name).status, d.order(name).order_id) == (own_status, f"id-{name}")
    assert d.state.risk.outcomes == (() if d.order(name).working else (status == "rejected",))
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
    fill = account.fill(name, 9, "2.00", d.at(1, 3))
    d.put(account.found(name, d.at(1, 3)), fill)
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
    assert outcomes == [((True,), ["order_rejected"], REJECTED)] * 2


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
    assert "sent buy 9 " + CALL in str(d.state.risk.halt)


def test_an_order_of_a_contract_that_was_adjusted_is_not_followed_because_nobody_knows_what_it_delivers() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(account.found(name, d.at(1, 1)))
    adjusted = replace(account.orders[name], symbol=f"SPY1{CALL[3:]}", filled=Decimal(9), average_price=Decimal(2))
    d.put(ev.OrderFound(d.at(1, 6), adjusted))
    assert (d.halted(), d.held, d.state.book.cash) == ("order_mismatch", {}, Decimal(10000))


@pytest.mark.parametrize(("early_s", "halted"), [(600, ""), (601, "order_mismatch")])
def test_an_order_that_was_submitted_long_before_ours_is_another_one(early_s: int, halted: str) -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    sent_ns = d.order(name).submitted_ns
    d.put(ev.OrderFound(d.at(1, 6), replace(account.orders[name], submitted_ns=sent_ns - early_s * SECOND)))
    assert d.halted() == halted


def test_an_order_whose_id_came_with_its_acceptance_is_ours_however_far_ahead_the_desk_s_clock_was() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    broker_order = replace(account.orders[name], submitted_ns=d.order(name).submitted_ns - 3 * 3600 * SECOND)
    d.put(ev.OrderAccepted(d.at(1, 5), name, broker_order.order_id), ev.OrderFound(d.at(1, 6), broker_order))
    assert (d.halted(), d.order(name).working) == ("", True)
    d.put(ev.OrderFound(d.at(1, 7), replace(broker_order, order_id="another")))
    assert d.halted() == "order_mismatch"


def test_an_intent_that_the_broker_does_not_tell_is_no_difference() -> None:
    d = at_broker(account := Account())
    name = submitted(d, account)
    d.put(ev.OrderFound(d.at(1, 6), replace(account.orders[name], intent="")))
    assert (d.halted(), d.order(name).status) == ("", ACCEPTED)


def test_late_news_of_an_order_from_an_earlier_session_asks_for_a_report() -> None:
    d = at_broker(Account())
    (asking,) = of(d.put(ev.OrderCanceled(d.at(1), "e1-pointer-77-0-0")), AskBroker)
    assert "e1-pointer-77-0-0" in asking.why
    assert d.state.risk.reconciled


def test_a_lost_broker_takes_no_new_risk_until_a_report_agrees() -> None:
    d = at_broker(account := Account())
    effects = d.put(ev.BrokerLost(d.at(0, 1), "stream ended"), ev.BrokerLost(d.at(0, 2), "again"))
    assert alarms(effects) == ["broker_lost"]
    d.bar(0)
    d.answer(BUY_CALL)
    assert list(d.state.stats.denials) == ["not_reconciled"]
    agreed(d, account, 1, 10)
    d.bar(1)
    assert sent(d.answer(BUY_CALL)).quantity == 9


@pytest.mark.parametrize("answer", ["missing", "none"])
def test_an_entry_that_the_broker_never_showed_takes_no_new_risk_for_five_minutes_and_counts_until_the_close(
    answer: str,
) -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = sent(d.answer(BUY_CALL)).client_order_id
    d.put(ev.OrderUnknown(d.at(1, 5), name), ev.BrokerLost(d.at(1, 6), "the stream ended"))
    seen = []
    for minute in range(2, 9):
        d.put(*((ev.OrderMissing(d.at(minute), name),) if answer == "missing" else ()), account.report(d.at(minute, 1)))
        seen.append(d.state.risk.reconciled)
    assert seen == [False] * 4 + [True] * 3  # sent at 1:00
    assert (d.order(name).status, d.order(name).remaining) == ("unknown", 9)
    d.bar(9)
    d.answer(BUY_CALL)
    assert "not_reconciled" not in d.state.stats.denials
    assert {"duplicate_intent", "max_position"} <= set(d.state.stats.denials)


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
