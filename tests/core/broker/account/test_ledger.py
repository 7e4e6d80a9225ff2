"""The ledger's lines: each kind has one meaning, an unknown one is reported; options that ended, in any order of lines.

SPY call and put struck at 500, 100 shares a contract; sums are computed by hand.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.broker.ledger import FEES, INCOME, TRANSFERS
from daemon.core.effects import RaiseAlarm, SubmitOrder
from daemon.core.limits import Broker, Contracts, Sizing, Trading
from tests.support.core.account import Account, agreed, at_broker, line
from tests.support.core.desk import (
    BUY_CALL,
    BUY_PUT,
    CALL,
    FRIDAY,
    HALF_DAY,
    PUT,
    SECOND,
    TUESDAY,
    Desk,
    alarms,
    of,
    sent,
)
from tests.support.core.others import RULES

HOLD = Broker(exercised_shares="hold")


def left_open(account: Account, broker: Broker | None = None, action: int = BUY_CALL) -> Desk:
    """One option bought at 2.00, that expires on Tuesday and is still held when Tuesday's session is over."""
    d = at_broker(account, trading=Trading(broker=broker or Broker(), sizing=Sizing(max_contracts=1)))
    d.bar(0)
    name = account.take(sent(d.answer(action)), d.state.now_ns)
    d.put(account.fill(name, 1, "2.00", d.at(1)))
    d.begin(TUESDAY, "2024-07-03")
    d.put(ev.SessionEnded(d.at(390), "2024-07-02"))
    return d


# --- cash ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", sorted(FEES | INCOME))
def test_fees_and_income_are_realised_and_fees_are_counted(kind: str) -> None:
    d = at_broker(account := Account())
    account.book(line(kind, "SPY", amount="-0.31"))
    agreed(d, account, 1)
    agreed(d, account, 2)
    fees = Decimal("0.31") if kind in FEES else Decimal(0)
    assert (d.state.book.realized, d.state.book.fees, alarms(d.effects)) == (Decimal("-0.31"), fees, [])


@pytest.mark.parametrize("kind", sorted(TRANSFERS))
def test_money_that_comes_or_goes_is_no_gain(kind: str) -> None:
    d = at_broker(account := Account())
    account.book(line(kind, amount="-4000"))
    agreed(d, account, 1)
    book = d.state.book
    assert (book.equity, book.peak, book.transfers, d.halted()) == (Decimal(6000), Decimal(6000), Decimal(-4000), "")


@pytest.mark.parametrize("kind", ["REORG", "BRAND_NEW"])
@pytest.mark.parametrize(("amount", "realized", "transfers"), [("-50", "-50", "0"), ("50", "0", "50")])
def test_cash_of_an_unknown_kind_is_booked_once_with_an_alarm(
    kind: str, amount: str, realized: str, transfers: str
) -> None:
    d = at_broker(account := Account())
    account.book(line(kind, amount=amount))
    assert alarms(d.put(account.report(d.at(1)))) == ["unknown_activity"]
    d.put(account.report(d.at(1, 10)))
    book = d.state.book
    assert (book.cash, book.realized, book.transfers) == (
        10000 + Decimal(amount),
        Decimal(realized),
        Decimal(transfers),
    )
    assert (d.state.risk.reconciled, alarms(d.effects), d.halted()) == (True, ["unknown_activity"], "")


def test_a_line_that_is_pending_is_booked_when_it_is_executed() -> None:
    d = at_broker(account := Account())
    waiting = line("DIV", "SPY", amount="3.10", status="pending")
    account.lines.append(waiting)
    agreed(d, account, 1)
    account.lines.remove(waiting)
    account.book(replace(waiting, status="executed"))
    agreed(d, account, 2)
    agreed(d, account, 3)
    assert d.state.book.realized == Decimal("3.10")


@pytest.mark.parametrize("status", ["correct", "canceled"])
def test_a_line_that_amends_an_earlier_one_is_told_once_and_books_nothing(status: str) -> None:
    d = at_broker(account := Account())
    fee = line("FEE", amount="-0.30")
    account.book(fee)
    agreed(d, account, 1)
    account.lines.append(replace(fee, status=status))
    for minute in (2, 3):
        agreed(d, account, minute)
    assert (alarms(d.effects), d.state.book.fees) == (["ledger_amended"], Decimal("0.30"))


@pytest.mark.parametrize("kind", ["OPCSH", "OPEXC"])
@pytest.mark.parametrize("in_time", [True, False])
def test_contracts_that_are_taken_for_cash_end_with_it(kind: str, *, in_time: bool) -> None:
    d = left_open(account := Account())
    del account.positions[CALL]
    account.cash += 150  # bought at 2.00, 100 shares each
    if not in_time:
        d.put(account.report(d.at(391)), account.report(d.at(391, 11)))
    account.lines.append(line(kind, CALL, -1, "150"))
    agreed(d, account, 392)
    assert (d.held, d.state.book.realized, d.halted()) == ({}, Decimal(-50), "")


@pytest.mark.parametrize("in_time", [True, False])
def test_cash_of_contracts_of_both_is_each_one_s(*, in_time: bool) -> None:
    d, account = with_a_person(CALL)
    account.positions = {}
    account.cash += 600
    if not in_time:
        d.put(account.report(d.at(392)), account.report(d.at(392, 11)))
    account.lines.append(line("OPCSH", CALL, -4, "600"))
    agreed(d, account, 393)
    assert (d.state.book.realized, d.state.book.transfers) == (Decimal(-200 + 150), Decimal(450))


def test_cash_of_a_person_s_index_option_is_no_gain_and_is_booked_once() -> None:
    d, account = with_a_person(index := "SPXW240702C05000000")
    del account.positions[index]
    account.cash += 5000  # no shares come of it
    d.put(account.report(d.at(392)), account.report(d.at(392, 11)))
    account.lines.append(line("OPEXC", index, -3, "5000"))
    agreed(d, account, 393)
    assert (d.state.book.realized, d.state.book.transfers) == (Decimal(0), Decimal(5000))


# --- splits -------------------------------------------------------------------------------------------------------


def exercised(account: Account, broker: Broker = HOLD) -> Desk:
    """100 shares from an exercise at 500.00, in the evening."""
    d = left_open(account, broker)
    exercise(account)
    for report in account.report(d.at(391)), account.report(d.at(391, 10)):
        d.put(report)
    return d


@pytest.mark.parametrize("symbol", ["", "SPY"])
def test_shares_of_an_exercise_that_are_held_leave_with_a_flatten_and_a_close(symbol: str) -> None:
    d = exercised(Account())
    d.begin(HALF_DAY)
    wish = (symbol, 0, "out", "ann") if symbol else ("out", "ann")
    kind = ev.CloseRequested if symbol else ev.FlattenRequested
    effects = d.put(kind(d.at(1), *wish)) + d.tick(2)
    assert [(order.symbol, order.side, order.quantity) for order in of(effects, SubmitOrder)] == [("SPY", -1, 100)]


def exercise(account: Account) -> None:
    del account.positions[CALL]
    account.positions["SPY"] = (100, Decimal(500))
    account.book(line("OPEXC", CALL, -1))
    account.book(line("OPTRD", "SPY", 100, "-50000"))


@pytest.mark.parametrize(("kind", "change", "after"), [("SPLIT", 100, 200), ("SSP", -50, 50), ("FSPLIT", 200, 300)])
def test_shares_multiply_or_merge_at_the_same_cost(kind: str, change: int, after: int) -> None:
    d = exercised(account := Account("60000"))
    account.positions["SPY"] = (after, Decimal(50_000) / after)
    account.book(line(kind, "SPY", change))
    agreed(d, account, 392)
    assert (d.held, d.state.book.positions["SPY"].cost) == ({"SPY": after}, Decimal(50_000))


@pytest.mark.parametrize(("ratio", "lines"), [("2", 1), ("2", 2), ("0.1", 1), ("0.1", 2), ("1.5", 2)])
@pytest.mark.parametrize("tells_each", [False, True])
def test_a_split_over_the_night_of_shares_of_an_exercise_is_neither_loss_nor_gain(
    ratio: str, lines: int, *, tells_each: bool
) -> None:
    """The account is 9,800 in cash and 100 shares at 500; the daemon hears on Wednesday morning that they split."""
    d = exercised(account := Account("60000"))
    new, shares = Decimal(ratio), int(100 * Decimal(ratio))
    account.positions["SPY"] = (shares, 500 / new)
    d.begin(HALF_DAY, "2024-07-05")
    quantities = [shares - 100] if lines == 1 else [-100, shares]
    for second, quantity in enumerate(quantities):
        account.book(replace(line("SPLIT", "SPY", quantity), time_ns=d.at(-570)))
        if tells_each:  # or one report has both
            d.put(account.report(d.at(-30, second)))
            assert d.state.book.equity == 59_800
    agreed(d, account, -29)
    assert (d.state.book.equity, d.state.book.peak) == (Decimal(59_800), Decimal(60_000))
    assert [halted.reason for halted in d.state.risk.halts] == ["shares_from_exercise"]
    assert (d.held, d.state.book.positions["SPY"].cost) == ({"SPY": shares}, Decimal(50_000))
    for minute in range(2):  # the first one is far from Tuesday's: another one has to confirm it
        d.bar(minute, float(505 / new))
    agreed(d, account, 3)
    assert d.state.book.equity == pytest.approx(60_300, abs=Decimal("0.5"))


def test_a_split_of_what_is_not_held_changes_nothing_and_one_of_an_option_is_told() -> None:
    d = at_broker(account := Account())
    account.book(line("SPLIT", "AAPL", 100))
    account.book(line("SPLIT", CALL, 1))
    agreed(d, account, 1)
    assert (d.held, alarms(d.effects)) == ({}, ["unknown_activity"])


# --- options that end ---------------------------------------------------------------------------------------------


def test_an_option_that_expired_worthless_loses_its_cost_once() -> None:
    d = left_open(account := Account())
    del account.positions[CALL]
    account.book(line("OPEXP", CALL, -1))
    agreed(d, account, 391)
    agreed(d, account, 392)
    assert (d.held, d.state.book.realized, d.state.stats.trades, d.halted()) == ({}, Decimal(-200), 1, "")
    assert d.state.works == {}


def test_a_bust_of_a_purchase_that_lapsed_days_ago_brings_its_cash_back_and_halts_nothing() -> None:
    d = left_open(account := Account())
    del account.positions[CALL]
    account.book(line("OPEXP", CALL, -1))
    agreed(d, account, 391)
    older = replace(line("AMENDED_FILL", CALL, -1, "200", status=""), order="e1-pointer-0-0-0", side=1, id="older 1")
    account.book(older)
    for minute in (392, 393):
        agreed(d, account, minute)
    assert (d.held, d.state.book.cash, d.state.book.realized) == ({}, Decimal(10000), Decimal(0))
    assert (d.halted(), d.state.stats.trades, alarms(d.effects).count("trade_corrected")) == ("", 1, 1)


def test_a_bust_of_a_purchase_that_lapsed_today_brings_its_cash_back_and_halts_nothing() -> None:
    trading = Trading(sizing=Sizing(max_contracts=1), contracts=Contracts(min_days=0))
    d = at_broker(account := Account(), trading=trading)
    d.begin(TUESDAY, "2024-07-02")
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 1, "2.00", d.at(1)), ev.SessionEnded(d.at(390), "2024-07-02"))
    del account.positions[CALL]
    account.book(line("OPEXP", CALL, -1))
    agreed(d, account, 391)
    d.put(ev.TradeCorrected(d.at(392), name, "x1", 0, Decimal(0), "trade_bust"))
    account.cash += 200
    account.fills.clear()
    account.orders[name] = replace(account.orders[name], filled=Decimal(0), average_price=None, status="canceled")
    for minute in (393, 394):
        agreed(d, account, minute)
    assert (d.held, d.state.book.cash, d.state.book.realized) == ({}, Decimal(10000), Decimal(0))
    assert (d.halted(), d.state.stats.trades) == ("", 1)


@pytest.mark.parametrize("turned", [False, True], ids=["option first", "shares first"])
@pytest.mark.parametrize(
    ("kind", "action", "symbol", "shares"),
    [("OPEXC", BUY_CALL, CALL, 100), ("OPASN", BUY_CALL, CALL, 100), ("OPEXC", BUY_PUT, PUT, -100)],
)
def test_an_exercise_or_assignment_and_its_share_leg_come_to_the_same_in_both_orders(
    kind: str, action: int, symbol: str, shares: int, turned: bool
) -> None:
    d = left_open(account := Account("60000"), action=action)
    del account.positions[symbol]
    account.positions["SPY"] = (shares, Decimal(500))
    lines = [line(kind, symbol, -1), line("OPTRD", "SPY", shares, str(-500 * shares))]
    for activity in reversed(lines) if turned else lines:
        account.book(activity)
    agreed(d, account, 391)
    position = d.state.book.positions["SPY"]
    assert (d.held, position.cost, d.state.book.realized) == ({"SPY": shares}, 500 * Decimal(shares), Decimal(-200))
    assert d.halted() == "shares_from_exercise"
    agreed(d, account, 392)


def test_an_adjusted_contract_is_told_with_what_to_do_and_is_a_person_s_once_accepted() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    account.positions[new := f"SPY1{CALL[3:]}"] = account.positions.pop(CALL)
    for symbol, count in ((CALL, -9), (new, 9)):
        account.book(line("OPCA", symbol, count))
    d.put(account.report(d.at(2)), account.report(d.at(2, 11)))
    details = [alarm.detail for alarm in of(d.effects, RaiseAlarm) if alarm.name == "unknown_activity"]
    cure = "contracts were adjusted: close what came for them at the broker, then rltraderctl accept-broker"
    assert [detail.partition("; ")[2].partition("; ")[2] or detail for detail in details] == [cure, cure]
    assert (d.halted(), sent_sales(d), d.state.risk.reconciled) == ("reconciliation", [], False)
    d.put(ev.AcceptBrokerRequested(d.at(3), "adjusted", "ann"), account.report(d.at(4)))
    (accepted,) = [alarm.detail for alarm in of(d.effects, RaiseAlarm) if alarm.name == "broker_accepted"]
    assert accepted.endswith(f"; 9 {new}: a person's from now on, this desk cannot hold that; holds nothing")
    assert (d.held, d.state.broker.foreign_held, d.state.book.cash) == ({}, {new: 9}, account.cash)


def test_contracts_of_a_split_that_an_acceptance_leaves_to_others_are_named() -> None:
    """Nine contracts became eighteen at half the strike; by the rule what the book does not have is a person's."""
    d = at_broker(account := Account(), Broker(foreign_orders="ignore"))
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    del account.positions[CALL]
    account.positions[new := f"{CALL[:-8]}00250000"] = (18, Decimal(1))
    for symbol, count in ((CALL, -9), (new, 18)):
        account.book(line("OPCA", symbol, count))
    d.put(account.report(d.at(2)), account.report(d.at(2, 11)))
    d.put(ev.AcceptBrokerRequested(d.at(3), "adjusted", "ann"), account.report(d.at(4)))
    (accepted,) = [alarm.detail for alarm in of(d.effects, RaiseAlarm) if alarm.name == "broker_accepted"]
    assert (d.held, d.state.broker.foreign_held) == ({}, {new: 18})
    assert accepted.endswith(f"; 18 {new}: a person's from now on, by broker.foreign_orders; holds nothing")
    d.put(ev.AcceptBrokerRequested(d.at(5), "again", "ann"), account.report(d.at(6)))
    last = [alarm.detail for alarm in of(d.effects, RaiseAlarm) if alarm.name == "broker_accepted"][-1]
    assert new not in last  # told before


def sent_sales(d: Desk) -> list[str]:
    return [order.symbol for order in of(d.effects, SubmitOrder) if order.side < 0]


def test_a_part_of_the_contracts_ends_with_its_part_of_the_cost() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    account.positions[CALL] = (5, Decimal(2))
    account.book(line("OPEXP", CALL, -4))
    agreed(d, account, 2)
    assert (d.held, d.state.book.realized, d.state.stats.trades) == ({CALL: 5}, Decimal(-800), 0)
    del account.positions[CALL]
    account.book(line("OPEXP", CALL, -5))
    agreed(d, account, 3)
    assert (d.held, d.state.book.realized, d.state.stats.trades) == ({}, Decimal(-1800), 1)


def test_the_end_of_a_contract_that_is_not_held_or_of_no_contract_at_all_books_nothing() -> None:
    d = at_broker(account := Account())
    for symbol in (CALL, "SPY", "XOM2241220P00280000"):
        account.book(line("OPEXP", symbol, -1))
    agreed(d, account, 1)
    assert (alarms(d.effects), d.state.book.realized) == ([], Decimal(0))


# --- paper: positions move at once, the ledger follows on the next day --------------------------------------------


def settled_on_paper(account: Account) -> Desk:
    """The option and its cash moved in the evening; two reports say so, ten seconds apart."""
    d = left_open(account)
    del account.positions[CALL]
    account.positions["SPY"] = (100, Decimal(500))
    account.cash -= 50_000
    d.put(account.report(d.at(391)), account.report(d.at(391, 10)))
    return d


def test_an_exercise_is_settled_from_the_positions_and_its_ledger_lines_of_the_next_day_are_passed_over() -> None:
    d = settled_on_paper(account := Account("60000"))
    assert alarms(d.effects)[-2:] == ["shares_from_exercise", "settled_without_ledger"]
    assert (d.held, d.state.book.realized, d.state.risk.reconciled) == ({"SPY": 100}, Decimal(-200), True)
    assert list(d.state.broker.settled) == [("SPY", 100)]
    d.begin(HALF_DAY, "2024-07-05")
    account.lines += [line("OPEXC", CALL, -1), line("OPTRD", "SPY", 100, "-50000")]
    agreed(d, account, -5)
    assert (d.held, list(d.state.broker.settled), d.state.book.cash) == ({"SPY": 100}, [], account.cash)


def test_an_option_that_vanished_after_its_expiry_without_shares_expired_worthless() -> None:
    d = left_open(account := Account())
    del account.positions[CALL]
    d.put(account.report(d.at(391)))
    assert (d.held, d.state.risk.reconciled) == ({CALL: 1}, False)
    d.put(account.report(d.at(391, 10)))
    assert (d.held, d.state.book.realized, d.halted()) == ({}, Decimal(-200), "")
    assert alarms(d.effects)[-1] == "settled_without_ledger"
    account.lines.append(line("OPEXP", CALL, -1))
    agreed(d, account, 392)


def test_an_option_that_vanished_while_its_sale_works_waits_for_the_fill() -> None:
    account = Account()
    d = at_broker(account, trading=Trading(sizing=Sizing(max_contracts=1)))
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 1, "2.00", d.at(1)))
    d.begin(TUESDAY, "2024-07-03")
    name = account.take(sent(d.bar(0)), d.state.now_ns)  # it was held over night
    d.put(ev.OrderAccepted(d.state.now_ns, name), ev.SessionEnded(d.at(390), "2024-07-02"))
    there = account.positions.pop(CALL)
    account.cash += 300  # the order's own row comes last
    d.put(account.report(d.at(391)), account.report(d.at(391, 11)))
    assert (d.held, d.state.risk.reconciled) == ({CALL: 1}, False)
    account.positions[CALL] = there
    account.cash -= 300
    account.fill(name, 1, "3.00", d.at(389))
    agreed(d, account, 392)
    assert (d.held, d.state.book.realized) == ({}, Decimal(100))


def test_an_option_that_vanished_on_the_day_after_its_expiry_is_settled_too() -> None:
    d = left_open(account := Account())
    d.begin(HALF_DAY, "2024-07-05")
    del account.positions[CALL]
    d.put(account.report(d.at(-9)), account.report(d.at(-8)))
    assert (d.held, d.halted(), d.state.risk.reconciled) == ({}, "", True)


@pytest.mark.parametrize("listed", [False, True])
def test_what_lapsed_is_not_sold_on_the_next_morning_whoever_asks_and_no_alarm_calls_it_held_too_long(
    *, listed: bool
) -> None:
    """The broker's books may list it for another day. Its line comes at 10:30."""
    d = left_open(account := Account())
    d.prompt = None
    d.begin(HALF_DAY, "2024-07-05")
    effect_count = len(d.effects)
    d.put(ev.FlattenRequested(d.at(-5), "x", "ann"), ev.CloseRequested(d.at(-4), CALL, 0, "x", "ann"))
    for minute in range(12):  # no report for so long
        d.tick(minute)
    if not listed:
        del account.positions[CALL]
    for minute in range(12, 60):
        d.put(account.report(d.at(minute)), account.report(d.at(minute, 15)))
    account.positions.pop(CALL, None)
    account.book(line("OPEXP", CALL, -1))
    agreed(d, account, 60)
    alarm_names = set(alarms(d.effects[effect_count:])) - {"settled_without_ledger", "unreconciled"}
    assert (of(d.effects[effect_count:], SubmitOrder), alarm_names) == ([], {"flatten", "command_refused"})
    assert (d.held, d.state.works, [halt.reason for halt in d.state.risk.halts]) == ({}, {}, ["flatten"])


@pytest.mark.parametrize("hours", [7, 20])  # of Tuesday's evening, and of the next morning
def test_an_option_that_vanished_while_the_daemon_was_dead_is_settled_before_the_feed_ends_its_session(
    hours: int,
) -> None:
    d = at_broker(account := Account(), trading=Trading(sizing=Sizing(max_contracts=1)))
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 1, "2.00", d.at(1)))
    d.begin(TUESDAY, "2024-07-03")
    d.put(account.report(d.at(300)))
    del account.positions[CALL]
    at_ns = d.at(60 * hours)
    d.put(ev.RunStarted(at_ns, "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading))
    d.put(account.report(at_ns + SECOND), account.report(at_ns + 12 * SECOND))
    assert (d.held, d.halted(), d.state.risk.reconciled) == ({}, "", True)


def with_shares_that_a_person_owes() -> tuple[Desk, Account]:
    """A person's puts are exercised beside the desk, so the account is short 300 shares; their line is to come."""
    d, account = with_a_person(PUT)
    account.book(line("OPEXP", CALL, -1))
    account.positions = {PUT: (3, Decimal(2))}
    agreed(d, account, 391, 30)
    account.positions = {"SPY": (-300, Decimal(500))}
    account.cash += 150_000
    d.put(account.report(d.at(392)), account.report(d.at(392, 11)))
    return d, account


def test_a_person_s_put_that_takes_shares_before_its_line_is_no_short_position_of_the_desk() -> None:
    d, account = with_shares_that_a_person_owes()
    assert (d.held, d.state.broker.foreign_held, d.halted()) == ({}, {"SPY": -300}, "")
    account.positions["SPY"] = (-301, Decimal(500))
    d.put(account.report(d.at(393)))
    assert d.halted() == "short_position"


def test_a_split_of_a_person_s_short_shares_is_no_short_sale_of_the_desk() -> None:
    d, account = with_shares_that_a_person_owes()
    account.positions["SPY"] = (-600, Decimal(250))
    d.put(account.report(d.at(393)))
    assert (d.halted(), d.state.risk.reconciled) == ("", False)
    account.book(line("SPLIT", "SPY", -300))
    d.put(account.report(d.at(394)), account.report(d.at(394, 11)))
    assert (d.held, d.state.broker.foreign_held, d.halted(), d.state.risk.reconciled) == ({}, {"SPY": -600}, "", True)


def test_an_option_that_vanished_before_its_expiry_is_settled_by_nobody() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    del account.positions[CALL]
    d.put(account.report(d.at(2)), account.report(d.at(2, 10)))
    assert (d.halted(), d.held) == ("reconciliation", {CALL: 9})


def test_the_line_of_shares_that_a_person_accepted_with_the_positions_is_passed_over() -> None:
    account = Account()
    d = at_broker(account, HOLD)
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 1, "2.00", d.at(1)), account.report(d.at(2)))
    del account.positions[CALL]  # exercised early: its line, the shares and their cash, but no line of those
    account.positions["SPY"] = (100, Decimal(500))
    account.cash -= 50_000
    account.lines.append(line("OPEXC", CALL, -1))
    d.put(account.report(d.at(3)), ev.AcceptBrokerRequested(d.at(4), "they are there", "ann"), account.report(d.at(5)))
    assert (d.held, d.state.book.cash, d.state.broker.owners.owed) == ({"SPY": 100}, account.cash, {})
    account.lines.append(line("OPTRD", "SPY", 100, "-50000"))
    agreed(d, account, 6)
    assert d.held == {"SPY": 100}


def test_shares_of_others_that_lie_beside_are_not_taken_for_an_exercise_nor_hide_one() -> None:
    account = Account("60000")
    account.positions["SPY"] = (100, Decimal(480))
    d = left_open(account, Broker(foreign_orders="ignore"))
    del account.positions[CALL]
    account.positions["SPY"] = (200, Decimal(490))
    account.cash -= 50_000
    d.put(account.report(d.at(391)), account.report(d.at(391, 10)))
    assert (d.held, d.state.broker.foreign_held) == ({"SPY": 100}, {"SPY": 100})


@pytest.mark.parametrize("rule", RULES)
def test_as_many_shares_as_an_exercise_brings_that_came_for_no_cash_are_no_exercise(rule: str) -> None:
    """A person moves 100 SPY in from another broker on the evening on which the call lapses."""
    d = left_open(account := Account("100000"), RULES[rule])
    del account.positions[CALL]
    account.positions["SPY"] = (100, Decimal(450))
    d.put(account.report(d.at(391)), account.report(d.at(391, 11)), account.report(d.at(392)))
    assert (d.state.book.cash, d.halted()) == (Decimal(99_800), "reconciliation")
    d.begin(HALF_DAY, "2024-07-05")
    account.lines += [line("OPEXP", CALL, -1), line("JNLS", "SPY", 100)]
    d.put(account.report(d.at(-5)), account.report(d.at(-4)))
    assert "shares_from_exercise" not in alarms(d.effects)
    at_rest = {"halt": ({}, {}), "ignore": ({}, {"SPY": 100}), "adopt": ({"SPY": 100}, {})}
    assert (d.held, d.state.broker.foreign_held) == at_rest[rule]


def with_a_person(symbol: str) -> tuple[Desk, Account]:
    """A person has three contracts beside the desk's one, when the session is over."""
    account = Account("250000")
    account.positions[symbol] = (3, Decimal(2))
    d = left_open(account, Broker(foreign_orders="ignore"))
    d.put(account.report(d.at(391, 5)))
    return d, account


def beside_a_person(symbol: str, shares: int, cash: int) -> tuple[Desk, Account]:
    """So many shares are there for the contracts of both in the evening, without a line."""
    d, account = with_a_person(symbol)
    account.positions = {"SPY": (shares, Decimal(500))}
    account.cash -= cash
    d.put(account.report(d.at(392)), account.report(d.at(392, 11)))
    return d, account


def test_shares_that_were_settled_early_are_passed_over_in_as_many_lines_as_they_have() -> None:
    d, account = beside_a_person(CALL, 400, 200_000)
    d.begin(HALF_DAY, "2024-07-05")
    for contracts in (3, 1):  # three were asked for by hand, one was exercised at its end
        account.lines += [line("OPEXC", CALL, -contracts)]
        account.lines += [line("OPTRD", "SPY", 100 * contracts, str(-50_000 * contracts))]
    agreed(d, account, -5)
    assert (d.held, d.state.broker.foreign_held) == ({"SPY": 100}, {"SPY": 300})
    assert list(d.state.broker.settled) == []


@pytest.mark.parametrize("symbol", [CALL, CALL.replace("500", "490")])
def test_contracts_of_desk_and_person_that_became_shares_before_their_lines_leave_each_its_own(symbol: str) -> None:
    strike = int(symbol[10:]) // 1000
    d, account = beside_a_person(symbol, 400, 50_000 + 300 * strike)
    holdings = ({"SPY": 100}, {"SPY": 300})
    assert (d.held, d.state.broker.foreign_held, d.state.book.realized) == (*holdings, Decimal(-200))
    assert "shares_from_exercise" in [halted.reason for halted in d.state.risk.halts]
    d.begin(HALF_DAY, "2024-07-05")
    if symbol == CALL:
        account.lines += [line("OPEXC", CALL, -4), line("OPTRD", "SPY", 400, "-200000")]
    else:
        account.lines += [line("OPEXC", CALL, -1), line("OPTRD", "SPY", 100, "-50000")]
        account.lines += [line("OPEXC", symbol, -3), line("OPTRD", "SPY", 300, "-147000")]
    agreed(d, account, -5)
    assert (d.held, d.state.broker.foreign_held, d.state.book.cash) == (*holdings, account.cash)
    assert (list(d.state.broker.settled), d.state.broker.owners.owed) == ([], {})


def test_where_positions_do_not_say_whose_contracts_became_shares_the_lines_do() -> None:
    d, account = beside_a_person(CALL, 200, 100_000)  # two of four
    assert (d.held, d.state.broker.foreign_held, d.state.risk.reconciled) == ({CALL: 1}, {CALL: 3}, False)
    d.begin(HALF_DAY, "2024-07-05")
    account.lines += [line("OPEXC", CALL, -2), line("OPEXP", CALL, -2), line("OPTRD", "SPY", 200, "-100000")]
    agreed(d, account, -5)
    assert (d.held, d.state.broker.foreign_held) == ({}, {"SPY": 200})  # who exercised some alone is the person


def test_the_cash_says_that_a_person_s_contract_became_the_shares_and_not_the_desk_s() -> None:
    d, account = beside_a_person(CALL.replace("500", "490"), 100, 49_000)  # one of three, at 490
    assert (d.held[CALL], d.state.risk.reconciled) == (1, False)
    d.begin(HALF_DAY, "2024-07-05")
    other = CALL.replace("500", "490")
    account.lines += [line("OPEXC", other, -1), line("OPEXP", other, -2), line("OPEXP", CALL, -1)]
    account.lines += [line("OPTRD", "SPY", 100, "-49000")]
    agreed(d, account, -5)
    assert (d.held, d.state.broker.foreign_held) == ({}, {"SPY": 100})


# --- lines of an exercise that come one after the other ---


def comes(d: Desk, account: Account, minute: float, *told: ev.Activity) -> None:
    """Lines come whose cash and shares the account has; three reports say so."""
    account.lines += told
    for second in (0, 11, 22):
        d.put(account.report(d.at(minute, second)))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("first", ["contract", "shares"])
def test_shares_that_the_desk_s_contract_is_owed_are_its_own_until_their_line_comes(rule: str, first: str) -> None:
    d = left_open(account := Account("60000"), RULES[rule])
    del account.positions[CALL]
    account.positions["SPY"] = (100, Decimal(500))
    account.cash -= 50_000
    lines = [line("OPEXC", CALL, -1), line("OPTRD", "SPY", 100, "-50000")]
    for minute, told in enumerate(lines if first == "contract" else reversed(lines)):
        comes(d, account, 391 + minute, told)
    agreed(d, account, 393)
    assert (d.held, d.state.broker.foreign_held) == ({"SPY": 100}, {})
    assert (d.state.book.realized, d.state.book.transfers) == (Decimal(-200), Decimal(0))
    assert "position_changed" not in alarms(d.effects)
    assert (list(d.state.broker.settled), d.state.broker.owners.owed) == ([], {})


def test_what_lapsed_of_a_person_is_not_taken_over_with_the_cash_of_shares_that_the_desk_is_owed() -> None:
    """The person's puts ended worthless, and their line comes last."""
    d, account = with_a_person(other := CALL.replace("C", "P"))
    account.positions = {"SPY": (100, Decimal(500))}
    account.cash -= 50_000
    comes(d, account, 392, line("OPEXC", CALL, -1))
    comes(d, account, 393, line("OPTRD", "SPY", 100, "-50000"))
    assert (d.held, d.state.book.positions["SPY"].cost) == ({"SPY": 100}, Decimal(50_000))
    comes(d, account, 394, line("OPEXP", other, -3))
    agreed(d, account, 395)
    assert (d.state.book.realized, d.state.book.transfers) == (Decimal(-200), Decimal(0))


def test_shares_that_are_told_before_the_contracts_of_both_wait_for_them() -> None:
    d, account = with_a_person(CALL)
    account.positions = {"SPY": (200, Decimal(500))}  # two of four
    account.cash -= 100_000
    comes(d, account, 392, line("OPTRD", "SPY", 200, "-100000"))
    assert (d.held, d.state.broker.foreign_held) == ({CALL: 1}, {CALL: 3})
    comes(d, account, 393, line("OPEXC", CALL, -2), line("OPEXP", CALL, -2))
    agreed(d, account, 394)
    assert (d.held, d.state.broker.foreign_held) == ({}, {"SPY": 200})  # who exercised some alone is the person
    assert "owner_unknown" not in alarms(d.effects)


def test_shares_of_a_person_s_contract_whose_line_came_are_not_those_of_the_desk_s_that_lapsed() -> None:
    """One of its three is exercised at 495; the desk's call ended worthless, which no line tells yet."""
    other = CALL.replace("500", "495")
    d, account = with_a_person(other)
    account.positions = {"SPY": (100, Decimal(495))}
    account.cash -= 49_500
    comes(d, account, 392, line("OPEXC", other, -1), line("OPEXP", other, -2))
    assert (d.held, d.state.broker.foreign_held) == ({CALL: 1}, {})
    comes(d, account, 393, line("OPTRD", "SPY", 100, "-49500"), line("OPEXP", CALL, -1))
    agreed(d, account, 394)
    assert (d.held, d.state.broker.foreign_held) == ({}, {"SPY": 100})
    assert "shares_from_exercise" not in alarms(d.effects)


@pytest.mark.parametrize("symbol", [CALL, CALL.replace("500", "495")])
@pytest.mark.parametrize("shares_first", [False, True])
def test_of_shares_of_a_contract_in_no_book_and_of_the_desk_s_it_sells_its_own(
    symbol: str, *, shares_first: bool
) -> None:
    """A person bought one call by hand, which halts the desk; both calls are exercised."""
    d = left_open(account := Account("150000"))
    account.fill(account.by_hand("ann-1", symbol, 1, 1, d.at(2)), 1, "3.00", d.at(2))
    d.put(account.report(d.at(390, 5)))
    strike = int(symbol[10:]) // 1000
    account.positions = {"SPY": (200, Decimal(498))}
    account.cash -= 50_000 + 100 * strike
    ends = [line("OPEXC", CALL, -1), replace(line("OPEXC", symbol, -1), id="another 1")]
    shares = [line("OPTRD", "SPY", 100, "-50000"), replace(line("OPTRD", "SPY", 100, f"-{strike}00"), id="another 2")]
    for minute, told in enumerate((shares, ends) if shares_first else (ends, shares)):
        comes(d, account, 391 + minute, *told)
    d.begin(HALF_DAY, "2024-07-05")
    d.put(account.report(d.at(-5)))
    assert [(it.symbol, it.side, it.quantity) for it in of(d.tick(0) + d.tick(1), SubmitOrder)] == [("SPY", -1, 100)]


@pytest.mark.parametrize("later", [False, True])
def test_contracts_that_a_person_exercised_early_are_not_the_desk_s_of_the_same_name(*, later: bool) -> None:
    """They bought two by hand, which halts the desk; its own lapsed, by a line of that report or a later one."""
    d = left_open(account := Account("150000"))
    account.fill(account.by_hand("ann-1", CALL, 1, 2, d.at(2)), 2, "3.00", d.at(2))
    d.put(account.report(d.at(390, 5)))
    account.positions = {"SPY": (200, Decimal(500))}
    if later:
        account.positions[CALL] = (1, Decimal(2))
    account.cash -= 100_000
    end = line("OPEXP", CALL, -1)
    comes(d, account, 391, line("OPEXC", CALL, -2), line("OPTRD", "SPY", 200, "-100000"), *([] if later else [end]))
    assert d.held == ({CALL: 1} if later else {})
    account.positions.pop(CALL, None)
    comes(d, account, 392, *([end] if later else []))
    d.begin(HALF_DAY, "2024-07-05")
    effects = d.put(account.report(d.at(-5))) + d.tick(0) + d.tick(1)
    assert (of(effects, SubmitOrder), d.held, "shares_from_exercise" in alarms(d.effects)) == ([], {}, False)


def test_contracts_of_a_person_that_were_taken_over_as_shares_do_not_end_again_by_their_line() -> None:
    """A person exercises two of three calls beside the desk's before the last day: the positions tell it first."""
    account = Account("200000")
    account.positions[CALL] = (3, Decimal(2))
    d = at_broker(account, Broker(foreign_orders="ignore"))
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, count := int(account.orders[name].quantity), "2.00", d.at(1)))
    account.positions |= {CALL: (count + 1, Decimal(2)), "SPY": (200, Decimal(500))}
    account.cash -= 100_000
    comes(d, account, 2)
    assert (d.held, d.state.broker.foreign_held) == ({CALL: count}, {CALL: 1, "SPY": 200})
    comes(d, account, 3, line("OPEXC", CALL, -2), line("OPTRD", "SPY", 200, "-100000"))
    agreed(d, account, 4)
    assert (d.held, d.state.broker.foreign_held) == ({CALL: count}, {CALL: 1, "SPY": 200})


def test_shares_that_a_person_bought_by_hand_are_no_exercise_of_the_call_that_lapsed_meanwhile() -> None:
    """100 SPY at 497 halt the desk; its call is struck at 500, and its line comes on the next day."""
    d = left_open(account := Account("150000"))
    account.fill(account.by_hand("ann-1", "SPY", 1, 100, d.at(2)), 100, "497.00", d.at(2))
    del account.positions[CALL]
    comes(d, account, 391)
    comes(d, account, 392, line("OPEXP", CALL, -1))
    d.begin(HALF_DAY, "2024-07-05")
    effects = d.put(account.report(d.at(-5))) + d.tick(0) + d.tick(1)
    assert (of(effects, SubmitOrder), d.held, "shares_from_exercise" in alarms(d.effects)) == ([], {}, False)


def test_cash_of_the_desk_s_contract_that_comes_late_is_its_gain_though_a_person_holds_shares() -> None:
    d, account = with_a_person("SPY")
    del account.positions[CALL]
    account.cash += 150  # bought at 2.00
    comes(d, account, 392)
    assert d.held == {}
    comes(d, account, 393, line("OPCSH", CALL, -1, "150"))
    assert (d.state.book.realized, d.state.book.transfers) == (Decimal(-50), Decimal(0))
    agreed(d, account, 394)


@pytest.mark.parametrize("shares_first", [False, True])
def test_shares_of_an_exercise_on_the_evening_of_an_acceptance_are_booked(*, shares_first: bool) -> None:
    """A person bought 2 SPY by hand, which was accepted in the morning; the call of that day is exercised."""
    d = left_open(account := Account("60000"), HOLD)
    account.positions["SPY"] = (2, Decimal(500))
    account.cash -= 1000
    d.put(ev.AcceptBrokerRequested(d.at(391), "they are there", "ann"), account.report(d.at(391, 1)))
    assert d.held == {CALL: 1, "SPY": 2}
    del account.positions[CALL]
    account.positions["SPY"] = (102, Decimal(500))
    account.cash -= 50_000
    today_ns = TUESDAY.open_ns - 34_200 * SECOND
    lines = [line("OPEXC", CALL, -1), line("OPTRD", "SPY", 100, "-50000")]
    for minute, told in enumerate(reversed(lines) if shares_first else lines):
        comes(d, account, 392 + minute, replace(told, time_ns=today_ns))
    agreed(d, account, 394)
    assert d.held == {"SPY": 102}


@pytest.mark.parametrize("told", [True, False])
def test_what_comes_of_shares_of_an_exercise_that_the_desk_was_away_from_is_divided_by_them(*, told: bool) -> None:
    """One call of the desk and three of a person became 400 SPY, which pay 1 USD each on Friday and split after it."""
    d, account = with_a_person(CALL)
    account.positions = {"SPY": (400, Decimal(500))}
    account.cash -= 200_000
    d.begin(FRIDAY, "2024-07-05")
    lines = [line("OPEXC", CALL, -4), line("OPTRD", "SPY", 400, "-200000")]
    account.lines += [replace(it, time_ns=HALF_DAY.open_ns - 34_200 * SECOND) for it in lines if told]
    d.put(account.report(d.at(-30)), account.report(d.at(-29)))
    account.book(replace(line("DIV", "SPY", 0, "400"), time_ns=d.at(-570), ex_date="2024-07-05"))
    account.book(replace(line("SPLIT", "SPY", 400), time_ns=d.at(-570)))
    account.positions = {"SPY": (800, Decimal(250))}
    agreed(d, account, -20)
    assert (d.held, d.state.broker.foreign_held) == ({"SPY": 200}, {"SPY": 600})
    assert d.state.book.realized == Decimal(-200 + 100)
    assert "owner_unknown" not in alarms(d.effects)


# --- the shares afterwards ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("action", "symbol", "shares", "side", "intent"),
    [(BUY_CALL, CALL, 100, -1, "sell_to_close"), (BUY_PUT, PUT, -100, 1, "buy_to_close")],
)
def test_shares_from_an_exercise_are_closed_at_the_next_open_and_new_risk_waits_for_a_person(
    action: int, symbol: str, shares: int, side: int, intent: str
) -> None:
    d = left_open(account := Account("60000"), action=action)
    del account.positions[symbol]
    account.positions["SPY"] = (shares, Decimal(500))
    account.book(line("OPEXC", symbol, -1))
    account.book(line("OPTRD", "SPY", shares, str(-500 * shares)))
    agreed(d, account, 391)
    d.begin(HALF_DAY, "2024-07-05")
    assert of(d.tick(-1), SubmitOrder) == []
    order = sent(d.tick(0))
    assert (order.symbol, order.side, order.quantity, order.limit_price) == ("SPY", side, 100, None)
    assert order.intent == intent
    name = account.take(order, d.state.now_ns)
    d.put(account.fill(name, 100, "510.00", d.at(0, 5)))
    # the premium of 200, and 1000 gained on 100 shares bought at 500 or lost on 100 sold at 500
    assert (d.held, d.state.book.realized) == ({}, Decimal(-200 - side * 1000))
    agreed(d, account, 1)
    d.bar(1)
    d.answer(BUY_CALL)
    assert "halted" in d.state.stats.denials


@pytest.mark.parametrize("told", [True, False])
@pytest.mark.parametrize("beside", [50, 100, 300])
def test_shares_that_a_put_took_of_a_person_s_are_bought_back_and_none_of_theirs_is_sold(
    beside: int, *, told: bool
) -> None:
    """The account has what is left of theirs: its own call would sell that. Sold at 500, bought back at 510."""
    account = Account("100000")
    account.positions["SPY"] = (beside, Decimal(450))
    d = left_open(account, Broker(foreign_orders="ignore"), BUY_PUT)
    del account.positions[PUT], account.positions["SPY"]
    if beside != 100:
        account.positions["SPY"] = (beside - 100, Decimal(500))
    account.book(line("OPEXC", PUT, -1))
    account.book(line("OPTRD", "SPY", -100, "50000"))
    agreed(d, account, 391)
    d.begin(HALF_DAY, "2024-07-05")
    d.prompt = account.report if told else None
    order = sent(d.tick(0) + d.tick(0, 6))
    assert (order.symbol, order.side, order.quantity, order.closing) == ("SPY", 1, 100, False)
    d.put(account.fill(account.take(order, d.state.now_ns), 100, "510.00", d.at(0, 7)))
    agreed(d, account, 1)
    assert (d.held, d.state.broker.foreign_held) == ({}, {"SPY": beside})
    assert (d.state.book.realized, "exit_held_up" in alarms(d.effects)) == (Decimal(-200 - 1000), False)


@pytest.mark.parametrize("heard", ["at once", "next day", "all in one"])
@pytest.mark.parametrize(
    ("symbol", "side", "kind"), [("SPY240702P00490000", -1, "OPASN"), ("SPY240702C00490000", 1, "OPEXC")]
)
def test_shares_of_a_person_s_contract_that_no_book_has_are_not_sold_as_the_desk_s(
    symbol: str, side: int, kind: str, heard: str
) -> None:
    """A person trades beside the desk, which halts; as its own call lapses, theirs brings 100 shares at 490."""
    d = left_open(account := Account("100000"))
    account.fill(account.by_hand("ann-1", symbol, side, 1, d.at(2)), 1, "3.00", d.at(2))
    if heard != "all in one":  # the daemon was dead
        d.put(account.report(d.at(390, 5)))
    del account.positions[CALL], account.positions[symbol]
    account.positions["SPY"] = (100, Decimal(490))
    account.cash -= 49_000
    lines = [line("OPEXP", CALL, -1), line(kind, symbol, -side), line("OPTRD", "SPY", 100, "-49000")]
    account.lines += lines if heard != "next day" else []
    for minute in (391, 391.2, 392):
        d.put(account.report(d.at(minute)))
    d.begin(HALF_DAY, "2024-07-05")
    account.lines += lines if heard == "next day" else []
    effects = d.put(account.report(d.at(-5))) + d.tick(0) + d.tick(1)
    assert (of(effects, SubmitOrder), d.held, "shares_from_exercise" in alarms(d.effects)) == ([], {}, False)
    assert "foreign_order" in [halted.reason for halted in d.state.risk.halts]


def test_shares_that_are_bought_back_while_a_report_is_on_its_way_are_no_short_position() -> None:
    d = left_open(account := Account("60000"), action=BUY_PUT)
    del account.positions[PUT]
    account.positions["SPY"] = (-100, Decimal(500))
    account.book(line("OPEXC", PUT, -1))
    account.book(line("OPTRD", "SPY", -100, "50000"))
    agreed(d, account, 391)
    d.begin(HALF_DAY, "2024-07-05")
    name = account.take(sent(d.tick(0)), d.state.now_ns)
    before = account.report(d.at(0, 1))
    d.put(account.fill(name, 100, "500.00", d.at(0, 5)))
    d.put(before)
    assert [halted.reason for halted in d.state.risk.halts] == ["shares_from_exercise"]
    agreed(d, account, 0, 10)
    account.positions["SPY"] = (-100, Decimal(500))
    d.put(account.report(d.at(0, 20)))
    assert [halted.reason for halted in d.state.risk.halts] == ["shares_from_exercise", "short_position"]


def test_shares_are_held_where_the_configuration_says_so_and_deny_new_risk() -> None:
    d = exercised(account := Account("60000"))
    d.begin(HALF_DAY, "2024-07-05")
    before = len(of(d.effects, SubmitOrder))
    d.tick(0)
    d.put(ev.ResumeRequested(d.at(1), "I keep them", "ann"))
    d.bar(1)
    d.answer(BUY_CALL)
    assert len(of(d.effects, SubmitOrder)) == before
    assert "shares_held" in d.state.stats.denials
    agreed(d, account, 2, 30)


def test_the_shares_of_a_call_and_of_a_put_cancel_out() -> None:
    d = exercised(account := Account("60000"))
    del account.positions["SPY"]
    account.book(line("OPTRD", "SPY", -100, "50500"))
    agreed(d, account, 392)
    assert (d.held, d.state.book.realized) == ({}, Decimal(300))  # 500 gained on the shares, 200 of premium lost
