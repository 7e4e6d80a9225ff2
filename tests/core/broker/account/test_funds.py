"""What the broker lets the account spend and carry, and whether its market is open: its reports, asked by the gates.

Sums are computed by hand. A cash account's proceeds pay on the next day: the book's cash alone does not know that.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AskBroker, CancelOrder, SubmitOrder
from daemon.core.limits import Broker, Risk, Trading
from tests.support.core.account import Account, at_broker
from tests.support.core.daily_desk import KEEP, DailyDesk, orders
from tests.support.core.daily_live import live, with_shares
from tests.support.core.desk import BUY_CALL, MINUTE, SECOND, TUESDAY, Desk, alarms, of


def usd(**figures: str) -> ev.Funds:
    return ev.Funds(**{key: Decimal(figure) for key, figure in figures.items()})


def reported(d: Desk | DailyDesk, account: Account, minute: float, **more: Any) -> list[Any]:
    return d.put(replace(account.report(d.at(minute)), **more))


# --- an option desk -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "denied"), [("1908", False), ("1907.99", True)])
def test_an_entry_costs_at_most_the_buying_power_for_options(options: str, denied: bool) -> None:
    d = at_broker(account := Account())
    reported(d, account, -1, funds=usd(multiplier="2", buying_power="20000", options=options))
    d.bar(0)
    entries = of(d.answer(BUY_CALL), SubmitOrder)  # nine at 2.12: 1,908 USD; the cash is 10,000
    assert (entries == [], d.state.stats.denials) == (denied, {"buying_power": 1} if denied else {})


def test_what_was_bought_since_the_report_is_taken_from_the_broker_s_figure() -> None:
    d = at_broker(account := Account(), trading=Trading(risk=Risk(cooldown_trade_s=0, cooldown_loss_s=0)))
    reported(d, account, -1, funds=usd(multiplier="1", options="2000"))
    d.bar(0)
    (order,) = of(d.answer(BUY_CALL), SubmitOrder)
    name = account.take(order, d.state.now_ns)
    d.put(account.fill(name, order.quantity, "2.12", d.at(1)))
    d.put(ev.FlattenRequested(d.at(1), "x", "ann"))
    (leave,) = [effect for effect in of(d.effects + d.tick(1, 1), SubmitOrder) if effect.side < 0]
    d.put(account.fill(account.take(leave, d.state.now_ns), order.quantity, "2.12", d.at(2)))
    d.put(ev.ResumeRequested(d.at(2), "on", "ann"))
    d.bar(2)
    assert of(d.answer(BUY_CALL), SubmitOrder) == []  # all is sold again, and what came of it has not settled
    assert d.state.stats.denials == {"buying_power": 1}


@pytest.mark.parametrize("funds", [None, ev.Funds(), usd(multiplier="2", buying_power="1")])
def test_figures_that_the_broker_does_not_give_limit_nothing(funds: ev.Funds | None) -> None:
    d = at_broker(account := Account())
    reported(d, account, -1, funds=funds)
    d.bar(0)
    assert len(of(d.answer(BUY_CALL), SubmitOrder)) == 1


# --- a daily desk -------------------------------------------------------------------------------------------------


def swapping(account: Account, funds: ev.Funds) -> tuple[DailyDesk, str]:
    """On Tuesday 90 of 100 AAA's worth are being sold for BBB; the sale has filled at the open."""
    d = with_shares(account, AAA=90)
    reported(d, account, -18, funds=funds)
    d.prompt = lambda now_ns: replace(account.report(now_ns), funds=funds)
    d.due()
    (sale,) = of(d.answer(0, 80, KEEP), SubmitOrder)
    name = account.take(sale, d.state.now_ns)
    d.put(account.fill(name, 90, "100", d.at(0)))
    return d, name


def test_buys_of_a_cash_account_wait_for_a_report_that_knows_the_proceeds() -> None:
    d, _ = swapping(account := Account(), usd(multiplier="1", buying_power="1000", non_marginable="1000"))
    waiting = d.quotes(0.1, BBB="100")
    assert (orders(waiting), len(of(waiting, AskBroker))) == ([], 1)
    assert orders(reported(d, account, 0.5, funds=usd(multiplier="1", buying_power="10000"))) == [("BBB", 80, "100.20")]


def test_what_has_not_settled_is_not_spent_and_what_is_not_bought_is_reported() -> None:
    d, _ = swapping(account := Account(), usd(multiplier="1", buying_power="1000", non_marginable="1000"))
    d.quotes(0.1, BBB="100")
    effects = reported(d, account, 0.5, funds=usd(multiplier="1", buying_power="10000", non_marginable="1000"))
    assert orders(effects) == [("BBB", 9, "100.20")]  # 901.80 of 1,000 USD
    assert ("basket_unfinished" in alarms(effects), d.state.basket.given_up) == (True, {"BBB": 71})


def test_what_a_buy_kept_that_ended_unfilled_is_spent_again_after_the_next_report() -> None:
    """90 at 100.20 keep 9,018 of the 10,000 USD: the report of that minute has 982 left, which pay for nine shares."""
    d = live(account := Account())
    d.due()
    d.answer(90, KEEP, KEEP)
    (first,) = of(d.quotes(0, AAA="100"), SubmitOrder)
    name = account.take(first, d.state.now_ns)
    reported(d, account, 0.8, funds=usd(multiplier="1", buying_power="982"))
    assert of(d.tick(1, 5), CancelOrder) != []
    account.end(name)
    effects = d.put(ev.OrderCanceled(d.at(1, 6), name)) + d.quotes(1.2, AAA="100.30")
    assert (orders(effects), alarms(effects), len(of(effects, AskBroker)) > 0) == ([], [], True)
    effects = reported(d, account, 1.25, funds=usd(multiplier="1", buying_power="10000"))
    assert orders(effects) == [("AAA", 90, "100.51")]


def test_a_margin_account_s_proceeds_pay_at_once() -> None:
    d, _ = swapping(Account(), usd(multiplier="2", buying_power="1000", non_marginable="1000"))
    assert orders(d.quotes(0.1, BBB="100")) == [("BBB", 80, "100.20")]


# --- intraday margin ----------------------------------------------------------------------------------------------


def test_a_deficit_of_margin_is_an_alarm_and_lets_positions_be_closed_alone() -> None:
    d = at_broker(account := Account())
    short = usd(multiplier="2", options="9000", equity="10000", maintenance="10400")
    names = [alarms(reported(d, account, minute, funds=short)) for minute in (-1, -0.5)]
    assert names == [["margin_deficit"], []]
    d.bar(0)
    assert of(d.answer(BUY_CALL), SubmitOrder) == []
    assert d.state.stats.denials == {"intraday_margin": 1}
    reported(d, account, 2, funds=usd(multiplier="2", options="9000", equity="10000", maintenance="0"))
    d.bar(2)
    assert len(of(d.answer(BUY_CALL), SubmitOrder)) == 1
    assert alarms(reported(d, account, 4, funds=short)) == ["margin_deficit"]


@pytest.mark.parametrize(("limit", "denied"), [(0.1908, False), (0.1907, True)])
def test_what_is_held_and_ordered_stays_within_what_the_equity_carries(limit: float, denied: bool) -> None:
    d = at_broker(Account(), trading=Trading(risk=Risk(intraday_exposure_max=limit)))
    d.bar(0)
    d.answer(BUY_CALL)  # 1,908 of 10,000 USD
    assert d.state.stats.denials == ({"intraday_margin": 1} if denied else {})


def test_shares_that_are_owed_count_as_exposure() -> None:
    d = at_broker(account := Account())
    account.positions["SPY"] = (-100, Decimal(500))
    account.cash += 50_000
    shares = ev.Activity("1", "OPTRD", "SPY", Decimal(-100), Decimal(500), Decimal(50_000), "executed", d.at(-1))
    account.lines.append(shares)
    reported(d, account, -1)
    d.put(ev.ResumeRequested(d.at(-1), "looked at", "ann"))
    d.bar(0)
    d.answer(BUY_CALL)
    assert "intraday_margin" in d.state.stats.denials  # 50,000 USD of SPY on 10,000 USD


# --- the broker's clock -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("second", "is_open", "denied"), [(9, False, False), (10, False, True), (10, True, False), (10, None, False)]
)
def test_a_market_that_is_closed_in_a_session_of_the_calendar_takes_no_entry(
    second: int, is_open: bool | None, denied: bool
) -> None:
    d = at_broker(account := Account())
    report = replace(account.report(d.at(0, second)), market_open=is_open, next_open_ns=TUESDAY.open_ns)
    assert alarms(d.put(report)) == (["market_closed"] if denied else [])
    d.bar(0)
    assert (of(d.answer(BUY_CALL), SubmitOrder) == []) is denied
    d.put(replace(account.report(d.at(2)), market_open=True))
    d.bar(2)
    assert len(of(d.answer(BUY_CALL), SubmitOrder)) == int(denied)  # it ends by itself


def test_a_market_that_closes_earlier_than_in_the_calendar_is_left_before_its_close_also_after_a_restart() -> None:
    d = at_broker(account := Account(), Broker(on_blind="hold"))
    early = {"market_open": True, "next_close_ns": d.at(210)}  # 13:00 in New York
    assert alarms(reported(d, account, -1, **early)) == ["market_closed"]
    d.bar(0)
    order = of(d.answer(BUY_CALL), SubmitOrder)[0]
    d.put(account.fill(account.take(order, d.state.now_ns), order.quantity, "2.00", d.at(1)))
    reported(d, account, 2, **early)
    d.put(ev.SessionScheduled(d.at(3), d.session, (TUESDAY,)))  # a start says what its calendar has
    assert of(d.tick(189), SubmitOrder) == []
    assert [order.side for order in of(d.tick(205, 1), SubmitOrder)] == [-1]


def test_a_close_that_the_broker_takes_back_or_has_later_is_the_calendar_s() -> None:
    d = at_broker(account := Account())
    calendar = d.session
    for close_ns in (d.at(210), d.at(300), d.at(420), TUESDAY.close_ns):
        reported(d, account, 1, market_open=True, next_close_ns=close_ns)
        if close_ns <= calendar.close_ns:
            assert d.state.session.session == replace(calendar, close_ns=close_ns)
        else:
            assert d.state.session.session == calendar
    d.begin(TUESDAY)
    assert d.state.session.session == TUESDAY


def test_a_closure_that_the_broker_knows_before_the_open_denies_the_basket_until_it_is_over() -> None:
    d = with_shares(account := Account(), AAA=10)
    later = {"market_open": False, "next_open_ns": TUESDAY.open_ns + 24 * 60 * MINUTE}
    assert alarms(reported(d, account, -16, **later)) == ["market_closed"]
    d.due()
    assert orders(d.answer(0, 10, KEEP)) == []
    assert d.decisions()[-1].outcome == "denied"
    usual = {"market_open": False, "next_open_ns": TUESDAY.open_ns}
    assert orders(reported(d, account, -14, **usual)) == [("AAA", -10, None)]


def test_a_market_that_is_closed_after_the_close_or_on_the_close_s_second_is_no_closure() -> None:
    d = at_broker(account := Account())
    close = (d.session.close_ns - d.session.open_ns) // SECOND
    for second in (close - 9, close + 60):
        report = replace(account.report(d.at(0, second)), market_open=False, next_open_ns=TUESDAY.open_ns)
        assert alarms(d.put(report)) == []


@pytest.mark.parametrize(
    ("minute", "is_open", "told"),
    [(391, True, []), (393, True, ["market_open"]), (393, False, []), (393, None, []), (24 * 60 - 1, True, [])],
)
def test_a_market_that_is_open_while_the_calendar_has_no_session_is_told_once(
    minute: int, is_open: bool | None, told: list[str]
) -> None:
    d = at_broker(account := Account())
    assert d.state.session.upcoming[0] == TUESDAY
    assert alarms(reported(d, account, minute, market_open=is_open)) == told
    assert alarms(reported(d, account, minute, market_open=is_open)) == []
