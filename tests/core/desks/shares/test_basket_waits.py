"""A basket that the gates deny for a cause of a minute is asked for again until its deadline.

On Tuesday before the open 10 AAA are held, bought at 100.00; the basket sells them for 10 BBB.
"""

from __future__ import annotations

import pytest

from daemon.core import events as ev
from daemon.core.effects import RaiseAlarm
from daemon.core.limits import Basket, Trading
from strategies.kit.quantity import exact
from tests.support.core.account import Account
from tests.support.core.claims import verified
from tests.support.core.daily_desk import KEEP, SYMBOLS, DailyDesk, bar, orders
from tests.support.core.daily_live import ADOPT, live, with_shares
from tests.support.core.desk import MONDAY, TUESDAY, alarms, of

LATE = Trading(basket=Basket(decide="before_close"))


def denied(how: str, account: Account, trading: Trading | None = None) -> DailyDesk:
    """A desk whose basket was denied 15 minutes before the open."""
    d = with_shares(account, trading, AAA=10)
    d.due()
    if how == "unreconciled":
        d.put(ev.BrokerLost(d.at(-15), "the stream ended"))
    else:
        d.put(account.report(d.at(-15), blocked="trading_blocked"))
    assert orders(d.answer(0, 10, KEEP)) == []
    assert d.decisions()[-1].outcome == "denied"
    return d


@pytest.mark.parametrize("how", ["unreconciled", "blocked"])
def test_a_basket_goes_out_as_soon_as_a_passing_cause_is_gone(how: str) -> None:
    d = denied(how, account := Account())
    assert orders(d.tick(-14)) == []
    assert orders(d.put(account.report(d.at(-13)))) == [("AAA", -10, None)]
    (first, last) = d.decisions()[-2:]
    assert (first.decision, first.outcome, last.outcome, last.work) == (2, "denied", "ordered", "2.")
    assert last.decision == 2
    assert d.state.basket.waiting is None
    assert orders(d.tick(-12)) == []
    d.fill("e1-shelf-2-0-0", 10, "100")
    assert orders(d.quotes(0.1, AAA="100", BBB="100")) == [("BBB", 10, "100.20")]


def test_a_basket_that_waits_survives_a_restart_of_the_daemon() -> None:
    d = denied("unreconciled", account := Account())
    d.reload = True
    d.put(ev.RunStarted(d.at(-12), "live", "desk-1", "shelf", "e1", "code", "sip", Trading()))
    assert orders(d.tick(-11)) == []
    assert orders(d.put(account.report(d.at(-10)))) == [("AAA", -10, None)]


def test_a_basket_that_waits_until_the_open_is_lost_and_the_alarm_says_why() -> None:
    d = denied("unreconciled", account := Account())
    effects = d.tick(0)
    assert (alarms(effects), d.state.basket.waiting, d.decisions()[-1].outcome) == (["basket_missed"], None, "denied")
    d.put(account.report(d.at(1)))
    assert orders(d.quotes(2, AAA="100", BBB="100")) == []


def test_a_basket_on_the_running_day_waits_until_the_session_s_end_of_trading() -> None:
    d = live(account := Account(), LATE)
    d.put(account.report(d.at(379)))
    running = tuple(bar(symbol, MONDAY, 100.0) for symbol in SYMBOLS)
    d.quotes(379.5, AAA="100")
    d.due(380, running)
    d.put(ev.BrokerLost(d.at(380), "the stream ended"))
    d.answer(10, KEEP, KEEP)
    d.quotes(384, AAA="100")
    assert orders(d.put(account.report(d.at(384)))) == [("AAA", 10, "100.20")]


def stop_by(d: DailyDesk, how: str, minute: float) -> list[str]:
    """Halt, pause, flatten or stop the desk; returns the alarms."""
    now = d.at(minute)
    match how:
        case "pause":
            return alarms(d.put(ev.PauseRequested(now, "x", "ann")))
        case "halt":
            return alarms(d.put(ev.HaltRequested(now, "operator", "x", "ann")))
        case "flatten":
            return alarms(d.put(ev.FlattenRequested(now, "x", "ann")))
        case "panic":
            return alarms(d.put(ev.PanicNoticed(now, "a panic is under way")))
        case _:
            return alarms(d.put(ev.StopRequested(now, "SIGTERM", flatten=False)))


@pytest.mark.parametrize("how", ["stop", "flatten", "panic"])
def test_a_basket_that_waits_is_ended_by_a_stop_and_by_what_sells_all(how: str) -> None:
    d = denied("unreconciled", account := Account())
    assert "basket_unfinished" in stop_by(d, how, -14)
    assert d.state.basket.given_up == {"AAA": -10, "BBB": 10}
    d.put(ev.ResumeRequested(d.at(-13), "on", "ann"), account.report(d.at(-13)))
    assert ("BBB", 10) not in [order[:2] for order in orders(d.tick(-12) + d.quotes(0.1, AAA="100", BBB="100"))]


@pytest.mark.parametrize("how", ["pause", "halt"])
@pytest.mark.parametrize("before", [True, False], ids=["at the decision", "while it waits"])
def test_a_resume_before_the_open_trades_the_basket_that_a_halt_or_a_pause_kept_back(how: str, before: bool) -> None:
    if before:
        d = with_shares(account := Account(), AAA=10)
        stop_by(d, how, -20)
        d.due()
        assert orders(d.answer(0, 10, KEEP)) == []
    else:
        d = denied("unreconciled", account := Account())
        assert "basket_unfinished" not in stop_by(d, how, -14)
        d.put(account.report(d.at(-13)))
    assert (d.decisions()[-1].outcome, d.state.basket.given_up) == ("denied", {})
    assert orders(d.tick(-10)) == []
    assert orders(d.put(ev.ResumeRequested(d.at(-5), "on", "ann"))) == [("AAA", -10, None)]
    assert d.decisions()[-1].outcome == "ordered"
    (sale,) = d.state.orders
    d.fill(sale, 10, "100")
    assert orders(d.quotes(0.1, AAA="100", BBB="100")) == [("BBB", 10, "100.20")]


@pytest.mark.parametrize("how", ["pause", "halt"])
def test_without_a_resume_before_the_open_the_basket_is_lost_and_an_alarm_names_the_cause(how: str) -> None:
    d = with_shares(Account(), AAA=10)
    stop_by(d, how, -20)
    d.due()
    d.answer(0, 10, KEEP)
    (alarm,) = of(d.tick(0), RaiseAlarm)
    assert (alarm.name, f"denied: {how}" in alarm.detail.replace("halted", "halt").replace("paused", "pause")) == (
        "basket_missed", True,
    )  # fmt: skip
    d.put(ev.ResumeRequested(d.at(1), "on", "ann"))
    assert orders(d.quotes(2, AAA="100", BBB="100")) == []


def test_a_basket_is_not_traded_on_other_holdings_than_its_decision_saw() -> None:
    d = with_shares(account := Account(), ADOPT, AAA=10)
    stop_by(d, "halt", -20)
    d.due()
    d.answer(0, 10, KEEP)
    account.fill(account.by_hand("theirs", "CCC", 1, 7, d.at(-13)), 7, "100", d.at(-13))
    for minute in (-12, -11, -10):
        d.put(account.report(d.at(minute)))
    assert d.state.book.positions["CCC"].quantity == 7
    assert "basket_missed" in alarms(d.effects)
    assert orders(d.put(ev.ResumeRequested(d.at(-5), "on", "ann"))) == []


def test_a_basket_that_waits_ends_where_another_version_answers_than_the_one_that_decided() -> None:
    d = with_shares(Account(), AAA=10)
    stop_by(d, "halt", -20)
    d.due()
    d.answer(0, 10, KEEP)
    (alarm,) = of(d.put(ev.ModelPromoted(d.at(-10), "v0", "e", True, "sip", "v1")), RaiseAlarm)
    assert (alarm.name, alarm.detail.partition(": ")[2]) == (
        "basket_missed", "v1 decided it, and v0 answers by now",
    )  # fmt: skip
    assert orders(d.put(ev.ResumeRequested(d.at(-5), "on", "ann"))) == []
    assert orders(d.quotes(0.1, AAA="100", BBB="100")) == []


def test_no_basket_of_a_version_that_broke_its_claim_is_bought_once_the_former_one_answers() -> None:
    d = with_shares(Account(), AAA=10)
    d.put(verified(d, version="v1"))
    d.put(ev.ClaimJudged(d.at(-20), "v1", "drawdown", "5 % lost", 1, 0.0, 0.05, "former_version", "v0"))
    d.due()
    d.answer(KEEP, 10, KEEP)
    assert d.state.basket.waiting is not None  # a resume would buy it
    assert "basket_missed" in alarms(d.put(ev.ModelPromoted(d.at(-10), "v0", "e", True, "sip", "v1")))
    assert orders(d.quotes(0.1, AAA="100", BBB="100")) == []


def test_a_halt_that_kept_a_basket_back_survives_a_restart_of_the_daemon() -> None:
    d = with_shares(account := Account(), AAA=10)
    stop_by(d, "halt", -20)
    d.due()
    d.answer(0, 10, KEEP)
    d.reload = True
    d.put(ev.RunStarted(d.at(-12), "live", "desk-1", "shelf", "e1", "code", "sip", Trading()))
    d.put(account.report(d.at(-10)))
    assert orders(d.put(ev.ResumeRequested(d.at(-5), "on", "ann"))) == [("AAA", -10, None)]


def test_a_basket_of_fractions_that_waits_survives_a_restart_of_the_daemon() -> None:
    d = with_shares(account := Account(), Trading(basket=Basket(fractions="on")), AAA=10)
    d.put(account.report(d.at(-16), blocked="trading_blocked"))
    d.due()
    d.reload = True
    assert orders(d.answer(9.5, 0.25, KEEP)) == []
    assert orders(d.put(account.report(d.at(-14)))) == []
    changes = orders(d.quotes(0, AAA="100", BBB="100"))
    assert changes == [("AAA", exact("-0.5"), "99.80"), ("BBB", exact("0.25"), "100.20")]


def test_a_basket_that_is_denied_for_what_does_not_pass_does_not_wait_and_the_alarm_says_so() -> None:
    d = with_shares(Account(), Trading(basket=Basket(turnover_max=0.1)), AAA=10)
    d.due()
    (alarm,) = of(d.answer(0, 10, KEEP), RaiseAlarm)
    assert (d.decisions()[-1].outcome, d.state.basket.waiting) == ("denied", None)
    denied = "denied: turnover: turnover would be 0.2000 of the equity, limit 0.1"
    assert (alarm.name, alarm.detail) == ("basket_missed", f"no basket for {TUESDAY.date}: {denied}")


def test_a_cause_that_joins_a_passing_one_and_does_not_pass_ends_the_wait() -> None:
    d = denied("unreconciled", Account())
    effects = d.put(ev.ModelRefused(d.at(-14), "its hash differs")) + d.tick(-13)
    assert ("basket_missed" in alarms(effects), d.state.basket.waiting) == (True, None)
