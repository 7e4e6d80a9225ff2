"""After a panic that failed: the desk closes its own, and nothing else, until a person accepts the broker's word.

The account of `tests.support.core.account` is the truth; quantities are computed by hand.
"""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AnyEffect, AskBroker, RaiseAlarm, SubmitOrder
from daemon.core.limits import Trading
from tests.support.core.account import Account
from tests.support.core.daily_desk import KEEP, DailyDesk
from tests.support.core.daily_live import with_shares
from tests.support.core.desk import CALL, HALF_DAY, TUESDAY, Desk, alarms, of
from tests.support.core.others import RULES, holding


def shares(account: Account, rule: str = "halt") -> DailyDesk:
    d = with_shares(account, Trading(broker=RULES[rule]), AAA=198)
    d.prompt = None
    d.put(account.report(d.at(1)), ev.PanicNoticed(d.at(1.1), "ann"))
    return d


def options(account: Account, rule: str = "halt", count: int = 8) -> Desk:
    d = holding(account, RULES[rule], count)
    d.prompt = None
    d.put(ev.PanicNoticed(d.at(1.5), "ann"))
    return d


def failed(d: Desk | DailyDesk, minute: float) -> list[AnyEffect]:
    return d.put(ev.PanicFailed(d.at(minute), "ann: not flat"))


def sales(effects: list[AnyEffect]) -> list[tuple[str, int, bool]]:
    return [(order.symbol, -order.side * order.quantity, order.closing) for order in of(effects, SubmitOrder)]


def report(d: Desk | DailyDesk, account: Account) -> list[AnyEffect]:
    return d.put(account.report(d.state.now_ns + 1))


def test_while_the_panic_lives_nothing_is_sent() -> None:
    d = options(account := Account())
    assert sales(report(d, account) + d.tick(4) + report(d, account) + d.tick(30)) == []


def test_contracts_leave_after_the_first_report_that_was_requested_since_it_failed() -> None:
    d = options(account := Account())
    before = account.report(d.at(1.9))
    effects = failed(d, 2)
    assert (sales(effects), "panic_failed" in alarms(effects), [ask.at_once for ask in of(effects, AskBroker)]) == (
        [],
        True,
        [True],
    )
    assert sales(d.put(replace(before, time_ns=d.at(2.01))) + d.tick(2.1) + d.tick(4)) == []
    assert sales(report(d, account)) == [(CALL, 8, False)]


def test_shares_leave_by_the_broker_s_own_call_with_the_desk_s_quantity() -> None:
    d = shares(account := Account("50000"), "ignore")
    account.by_hand("ann-0", "AAA", +1, 100, d.at(1.2))
    account.fill("ann-0", 100, "100", d.at(1.2))
    report(d, account)
    failed(d, 2)
    assert sales(report(d, account) + d.tick(2.2) + report(d, account) + d.tick(2.3)) == [("AAA", 198, True)]


@pytest.mark.parametrize("remaining", [5, 0])
def test_of_what_the_panic_half_closed_only_the_rest_leaves(remaining: int) -> None:
    d = options(account := Account())
    account.by_hand("panic-1", CALL, -1, 8, d.at(1.6))
    account.fill("panic-1", 8 - remaining, "1.90", d.at(1.6))
    account.end("panic-1", "canceled" if remaining else "filled")
    failed(d, 2)
    assert sales(report(d, account) + d.tick(2.1) + report(d, account)) == (
        [(CALL, remaining, False)] if remaining else []
    )


def test_what_others_hold_stays() -> None:
    d = options(account := Account(), "ignore")
    account.by_hand("ann-0", CALL, +1, 3, d.at(1.55))
    account.fill("ann-0", 3, "2.00", d.at(1.55))
    failed(d, 2)
    effects = report(d, account) + d.tick(2, 1) + report(d, account) + d.tick(2, 2)
    assert sales(effects) == [(CALL, 8, False)]
    name = account.take(of(effects, SubmitOrder)[0], d.state.now_ns)
    d.put(account.fill(name, 8, "2.00", d.state.now_ns))
    assert sales(report(d, account) + d.tick(4)) == []
    assert (d.held, account.positions[CALL][0]) == ({}, 3)


@pytest.mark.parametrize("accepted", ["before", "after"])
def test_after_an_accepted_report_nothing_is_closed(accepted: str) -> None:
    d = options(account := Account())
    if accepted == "before":
        d.put(ev.AcceptBrokerRequested(d.at(1.8), "settled", "ann"))
        failed(d, 2)
    else:
        failed(d, 2)
        d.put(ev.AcceptBrokerRequested(d.at(2.1), "settled", "ann"))
    effects = report(d, account) + d.tick(2.2) + report(d, account) + d.tick(4)
    assert (sales(effects), d.held, d.state.broker.stood_down) == ([], {CALL: 8}, False)


def test_a_flatten_after_an_accepted_panic_outlives_a_second_acceptance() -> None:
    d = options(account := Account())
    d.put(ev.AcceptBrokerRequested(d.at(1.8), "settled", "ann"))
    report(d, account)
    d.session = replace(d.session, close_ns=d.at(1.9))  # over night nothing is sent
    d.put(ev.SessionEnded(d.at(1.9), d.session.date), ev.FlattenRequested(d.at(2), "out", "ann"))
    d.put(ev.AcceptBrokerRequested(d.at(2.1), "again", "bob"))
    report(d, account)
    assert [(work.reason, work.symbol, work.goal) for work in d.state.works.values()] == [("operator", CALL, 0)]


def test_a_second_panic_ends_the_closing_of_what_the_first_one_left() -> None:
    d = options(account := Account())
    failed(d, 2)
    d.put(ev.PanicNoticed(d.at(2.1), "bob"))
    assert sales(report(d, account) + d.tick(3)) == []
    failed(d, 4)
    assert sales(report(d, account)) == [(CALL, 8, False)]


def test_a_failure_survives_a_restart_and_the_night_and_what_stays_is_named_each_session() -> None:
    d = shares(account := Account("50000"))
    d.reload = True
    d.session = TUESDAY
    d.put(ev.SessionEnded(TUESDAY.close_ns, TUESDAY.date))
    failed(d, 391)
    before = len(d.effects)
    d.begin(HALF_DAY)
    d.put(ev.RunStarted(d.at(-10), "live", "desk-1", "shelf", "e1", "c", "sip", d.state.trading))
    report(d, account)
    d.tick(-5)
    d.tick(0)
    effects = d.effects[before:]
    assert (sales(effects), alarms(effects)) == ([], ["panic_failed"])
    assert "198 AAA" in of(effects, RaiseAlarm)[0].detail
    assert sales(report(d, account)) == [("AAA", 198, True)]


def test_a_panic_of_which_nothing_was_heard_any_more_is_named_in_the_next_session() -> None:
    d = shares(account := Account("50000"))
    d.put(ev.SessionEnded(TUESDAY.close_ns, TUESDAY.date))
    before = len(d.effects)
    d.begin(HALF_DAY)
    report(d, account)
    d.tick(0)
    d.tick(5)
    assert (sales(d.effects[before:]), alarms(d.effects[before:])) == ([], ["panic_failed", "blind"])  # no quote came


def test_no_entry_follows_a_panic_that_failed() -> None:
    d = shares(account := Account("50000"))
    failed(d, 2)
    report(d, account)
    d.put(ev.ResumeRequested(d.at(3), "on", "ann"))
    d.due(4)
    if d.state.ask is not None:
        d.answer(300, KEEP, KEEP)
    assert [sale for sale in sales(d.effects) if sale[1] < 0 and sale[0] == "AAA"][1:] == []


def test_a_flatten_while_the_desk_stands_down_says_that_it_does_nothing() -> None:
    d = options(account := Account())
    effects = d.put(ev.FlattenRequested(d.at(2), "now", "bob"))
    assert (alarms(effects), d.halted(), d.state.works) == (["command_refused"], "panic", {})
    assert "accept-broker" in of(effects, RaiseAlarm)[0].detail
    failed(d, 3)
    assert alarms(d.put(ev.FlattenRequested(d.at(3.1), "now", "bob"))) == ["flatten"]
    assert sales(report(d, account)) == [(CALL, 8, False)]


@pytest.mark.parametrize("rule", ["ignore", "adopt"])
def test_the_orders_of_a_panic_are_told_once_and_not_one_by_one(rule: str) -> None:
    """A panic of a rebalancing desk closes fifty positions at once: fifty messages would hide what else there is."""
    d = shares(account := Account(), rule)
    for nth in range(4):
        account.by_hand(f"panic-{nth}", "AAA", -1, 30, d.state.now_ns)
    assert alarms(report(d, account)).count("foreign_order") == 2  # the first one's, and what it halts for
    account.by_hand("panic-9", "AAA", -1, 30, d.state.now_ns)
    assert "foreign_order" not in alarms(report(d, account))
