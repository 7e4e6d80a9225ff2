"""An alarm that is raised once is raised once for each case: the second case of a day is not hidden by the first."""

from __future__ import annotations

from daemon.core import events as ev
from daemon.core.limits import Basket, Trading
from tests.support.core.account import Account, at_broker
from tests.support.core.daily_desk import KEEP, daily_desk, orders
from tests.support.core.desk import HOLD, Desk, alarms, desk

CASES_MAX = 20


def trouble(d: Desk, name: str, detail: str) -> list[str]:
    return alarms(d.put(ev.TroubleNoticed(d.state.now_ns, name, detail)))


def test_another_case_of_a_trouble_is_another_alarm_and_other_figures_are_not() -> None:
    d = desk()
    assert trouble(d, "job_failed", "job report, problem disk full, 12 MiB") == ["job_failed"]
    assert trouble(d, "job_failed", "job report, problem disk full, 11.5 MiB") == []
    assert trouble(d, "job_failed", "job archive, problem disk full, 11 MiB") == ["job_failed"]


def test_a_trouble_that_comes_again_hours_later_is_reported_again() -> None:
    d = desk()
    names = []
    for minute in (5, 6, 240, 241):
        d.tick(minute)
        names.append(trouble(d, "clock_leap", f"by_s {28800 + minute}"))
    assert names == [["clock_leap"], [], ["clock_leap"], []]


def test_cases_of_one_name_are_reported_up_to_a_bound() -> None:
    d = desk()
    words = [chr(ord("a") + number) * 3 for number in range(CASES_MAX + 5)]
    names = [name for word in words for name in trouble(d, "job_failed", word)]
    assert names == ["job_failed"] * CASES_MAX
    assert trouble(d, "disk_low", "little") == ["disk_low"]


def test_a_desk_that_is_unreconciled_again_after_it_agreed_says_so_again() -> None:
    d = at_broker(account := Account())
    names = []
    for minute in (10, 30):
        effects = d.put(ev.BrokerLost(d.at(minute), "the stream ended"))
        names.append(
            alarms(effects) + alarms(d.tick(minute + 2)) + alarms(d.tick(minute + 8)) + alarms(d.tick(minute + 9))
        )
        d.put(account.report(d.at(minute + 10)))
        assert d.state.risk.reconciled
    assert names == [["broker_lost", "unreconciled"]] * 2


def test_a_policy_that_is_late_again_after_it_answered_is_reported_again() -> None:
    d = desk()
    names = []
    for minute in (0, 1, 3, 4):  # late twice, an answer, late twice
        d.bar(minute)
        names += alarms(d.tick(minute + 1, 50))
        if minute == 1:
            d.bar(2)
            d.answer(HOLD)
    assert names == ["policy_late", "policy_late"]


def test_each_order_that_is_denied_is_reported_and_counted_and_none_of_them_twice() -> None:
    d = daily_desk(Trading(basket=Basket(order_weight_max=0.05)))
    d.due()
    d.answer(10, 10, KEEP)  # 1,000 of 10,000 USD each: above 0.05
    quotes = [d.quotes(minute, AAA="100", BBB="100") for minute in (0, 1)]
    assert [(alarms(effects), orders(effects)) for effects in quotes] == [(["order_denied"] * 2, []), ([], [])]
    assert d.state.stats.denials == {"order_weight": 2}
