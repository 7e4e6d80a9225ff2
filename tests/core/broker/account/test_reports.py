"""The broker's report: suspected at first, judged when it stands, idempotent, and never a loop or a silence.

Also whose account it is, whether it may trade, and the one line that tells of a desk that stays unreconciled.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AskBroker, LookUpOrder, SubmitOrder
from daemon.core.limits import Broker, Risk, Trading
from daemon.core.state import SEEN_MAX, encode_state
from tests.support.core.account import NUMBER, Account, agreed, at_broker, line
from tests.support.core.desk import BUY_CALL, CALL, EXIT, OPEN, SECOND, TUESDAY, Desk, alarms, canceling, desk, of, sent

ADOPT, IGNORE = Broker(foreign_orders="adopt"), Broker(foreign_orders="ignore")


def holding(account: Account, broker: Broker | None = None, trading: Trading | None = None) -> Desk:
    """A desk that bought 9 calls at 2.00 at this account."""
    d = at_broker(account, broker, trading)
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 9, "2.00", d.at(1)))
    return d


# --- the first word -----------------------------------------------------------------------------------------------


def test_a_new_journal_begins_with_the_account_s_cash_and_number() -> None:
    d = at_broker(Account("12345.67"))
    book, broker = d.state.book, d.state.broker
    assert (book.cash, book.equity, book.peak, book.session_start_equity) == (Decimal("12345.67"),) * 4
    assert (broker.account, broker.began_ns, d.state.risk.reconciled) == (NUMBER, d.at(-2), True)


def test_what_the_ledger_held_before_the_first_report_is_not_booked_later_and_what_comes_after_it_is() -> None:
    account = Account()
    account.book(line("CSD", amount="500"))
    waiting = line("FEE", amount="-0.02", status="pending")
    account.lines.append(waiting)
    d = at_broker(account)
    account.lines.remove(waiting)
    account.book(replace(waiting, status="executed"))
    account.book(line("DIV", "SPY", amount="3.10"))
    agreed(d, account, 1)
    assert d.state.book.realized == Decimal("3.08")


def test_lines_that_came_with_a_report_which_could_not_begin_are_not_booked_after_the_begin() -> None:
    account = Account()
    account.by_hand("ann-1", CALL, 1, 1, OPEN)
    account.book(line("CSD", amount="500"))
    d = at_broker(account)
    assert (d.halted(), d.state.broker.began_ns) == ("foreign_order", 0)
    account.end("ann-1")
    agreed(d, account, 1)
    agreed(d, account, 2)
    assert d.state.book.cash == Decimal(10500)


# --- the account --------------------------------------------------------------------------------------------------


def test_the_keys_of_another_account_halt_and_nothing_of_its_word_is_taken_over() -> None:
    d = at_broker(Account())
    book = d.state.book
    other = Account("77")
    other.positions[CALL] = (3, Decimal(2))
    d.put(other.report(d.at(1), account="PA3OTHER"))
    assert (d.halted(), d.state.risk.reconciled, d.state.book) == ("wrong_account", False, book)
    assert "PA3OTHER" in str(d.state.risk.halt)
    assert NUMBER in str(d.state.risk.halt)


def test_the_account_that_the_configuration_names_is_expected_from_the_first_report_on() -> None:
    d = Desk(mode="live")
    d.put(ev.RunStarted(OPEN, "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading, "PA3MINE"))
    d.put(Account().report(OPEN))
    assert (d.halted(), d.state.book.cash, d.state.broker.account) == ("wrong_account", Decimal(0), "")
    d.put(Account().report(OPEN, account="PA3MINE"))
    assert (d.state.book.cash, d.state.broker.account) == (Decimal(10000), "PA3MINE")


PASSING = ("trading_blocked", "account_blocked", "trade_suspended_by_user", "status ACCOUNT_UPDATED", "status NEWS")


@pytest.mark.parametrize("blocked", PASSING)
def test_a_status_that_passes_denies_new_risk_while_it_lasts_and_ends_by_itself(blocked: str) -> None:
    d = at_broker(account := Account())
    account.book(line("FEE", amount="-0.30"))
    names = [alarms(d.put(account.report(d.at(minute), blocked=blocked))) for minute in (1, 2)]
    assert (names, d.halted()) == ([["account_blocked"], []], "")
    assert (d.state.book.cash, d.state.book.fees) == (Decimal("9999.70"), Decimal("0.30"))
    d.bar(2)
    d.answer(BUY_CALL)
    assert d.state.stats.denials == {"account_blocked": 1}
    agreed(d, account, 3)
    d.bar(3)
    assert len(of(d.answer(BUY_CALL), SubmitOrder)) == 1
    assert alarms(d.put(account.report(d.at(5), blocked=blocked))) == ["account_blocked"]


def test_a_status_that_passes_cancels_an_entry_that_works_and_holds_back_no_exit() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(account.fill(name, 1, "2.00", d.at(1)))
    blocked = d.put(account.report(d.at(1, 1), blocked="trading_blocked"))
    assert canceling(blocked) == [name]
    account.end(name)
    d.put(ev.OrderCanceled(d.at(1, 2), name))
    d.put(ev.FlattenRequested(d.at(2), "x", "ann"))
    exits = [order for order in of(d.effects + d.tick(2, 10), SubmitOrder) if order.side < 0]
    assert [order.quantity for order in exits] == [1]


def refused_exits(d: Desk, account: Account, count: int, blocked: str) -> None:
    """As many exits refused, each followed by a report a second later, as the account stands then."""
    d.prompt = None
    d.put(ev.CloseRequested(d.at(2), CALL, 0, "x", "ann"))
    for attempt in range(count):
        (name,) = d.state.orders
        now = d.state.now_ns
        d.put(ev.OrderRejected(now, name, "403 account is restricted"), account.report(now + SECOND, blocked=blocked))
        d.bar(3 + attempt)  # a minute later: the next attempt
    assert len([order for order in of(d.effects, SubmitOrder) if order.side < 0]) == count + 1


@pytest.mark.parametrize("blocked", PASSING)
def test_exits_that_are_refused_while_a_status_passes_halt_nothing(blocked: str) -> None:
    d = holding(account := Account(), trading=Trading(risk=Risk(reject_rate_orders=3)))
    d.put(ev.HaltRequested(d.at(1, 30), "operator", "x", "ann"))  # so that no other halt can be seen behind it
    refused_exits(d, account, 12, blocked)
    assert (d.state.risk.outcomes, "reject_rate" in alarms(d.effects)) == ((False,), False)  # of the entry alone


def test_exits_that_are_refused_by_an_account_that_may_trade_halt_as_before() -> None:
    d = holding(account := Account(), trading=Trading(risk=Risk(reject_rate_orders=3)))
    refused_exits(d, account, 3, "")
    assert (d.state.risk.outcomes, "reject_rate" in alarms(d.effects)) == (
        (False, True, True),
        True,
    )  # then it is halted


def test_refused_exits_of_a_halted_desk_are_no_second_halt() -> None:
    d = holding(account := Account(), trading=Trading(risk=Risk(reject_rate_orders=3)))
    d.put(ev.HaltRequested(d.at(1, 30), "operator", "x", "ann"))
    refused_exits(d, account, 12, "")
    halts = [halt.reason for halt in d.state.risk.halts]
    assert (halts, d.state.risk.outcomes) == (["operator"], (False,))  # of the entry alone


@pytest.mark.parametrize(("count", "blocked", "told"), [(2, "", 0), (12, "", 1), (12, PASSING[0], 0)])
def test_exits_that_are_refused_again_and_again_are_told_once_as_a_way_out_that_is_shut(
    count: int, blocked: str, told: int
) -> None:
    """While the account may not trade, its own alarm says so."""
    d = holding(account := Account())
    d.put(ev.HaltRequested(d.at(1, 30), "flatten", "x", "ann"))  # after which no halt tells of refusals
    refused_exits(d, account, count, blocked)
    assert alarms(d.effects).count("exit_stuck") == told
    assert alarms(d.effects).count("account_blocked") == bool(blocked)


def test_a_closed_account_halts_and_what_happened_in_it_is_still_booked() -> None:
    d = holding(account := Account())
    account.book(line("FEE", amount="-0.30"))
    d.put(account.report(d.at(2), blocked="status ACCOUNT_CLOSED, trading_blocked"))
    assert d.halted() == "account_blocked"
    assert (d.state.book.cash, d.state.book.fees) == (Decimal("8199.70"), Decimal("0.30"))
    agreed(d, account, 3)
    assert d.halted() == "account_blocked"


# --- suspicions ---------------------------------------------------------------------------------------------------


def test_a_difference_that_is_gone_before_ten_seconds_was_only_a_suspicion() -> None:
    d = holding(account := Account())
    early = replace(account.report(d.at(2)), cash=Decimal(10000))  # its cash was asked a moment before the fill
    effects = d.put(early)
    assert (len(of(effects, AskBroker)), alarms(effects), d.halted()) == (1, [], "")
    assert (d.state.risk.reconciled, d.state.broker.suspicion is not None) == (False, True)
    d.put(replace(early, time_ns=d.at(2, 9), asked_ns=d.at(2, 9)))
    assert (d.halted(), d.state.risk.reconciled) == ("", False)
    agreed(d, account, 2, 10)


@pytest.mark.parametrize(("second", "halted"), [(9, ""), (10, "reconciliation")])
def test_a_difference_that_stands_for_ten_seconds_is_judged(second: int, halted: str) -> None:
    d = holding(account := Account())
    account.positions[CALL] = (8, Decimal(2))
    wrong = account.report(d.at(2))
    d.put(wrong, replace(wrong, asked_ns=d.at(2, second)))
    assert d.halted() == halted
    if halted:
        assert f"{CALL}: broker 8, book 9" in str(d.state.risk.halt)
        assert d.held == {CALL: 9}


def test_a_suspicion_that_alternates_is_asked_for_once_halts_nothing_and_is_told_in_the_end() -> None:
    d = holding(account := Account())
    effects = []
    for minute in range(2, 12):
        odd = replace(account.report(d.at(minute)), cash=Decimal(8000 + minute))
        effects += d.put(odd, ev.ClockTicked(d.at(minute, 30)))
        d.bar(minute)
    assert (len(of(effects, AskBroker)), d.halted(), d.state.risk.reconciled) == (1, "", False)
    assert alarms(effects) == ["unreconciled"]  # what is held agrees: no reason to leave it
    agreed(d, account, 12)


def test_a_difference_that_stays_after_its_halt_is_no_news_and_agrees_again_once_it_is_mended() -> None:
    d = holding(account := Account())
    wrong = replace(account.report(d.at(2)), positions=())
    for second in range(0, 60, 10):
        d.put(replace(wrong, asked_ns=d.at(2, second)))
    assert (alarms(d.effects), len(of(d.effects, AskBroker))) == (["reconciliation"], 1)
    agreed(d, account, 3)
    assert d.halted() == "reconciliation"  # only a person ends it


@pytest.mark.parametrize(("difference", "amount"), [("0.99", "-0.99"), ("1.00", "-1.00"), ("-0.40", "+0.40")])
def test_a_little_cash_that_no_line_explains_yet_is_booked_as_a_fee_and_told(difference: str, amount: str) -> None:
    d = holding(account := Account())
    account.cash -= Decimal(difference)
    d.put(account.report(d.at(2)))
    effects = d.put(account.report(d.at(2, 10)))
    assert alarms(effects) == ["cash_adjusted"]
    assert f"{amount} USD" in str(effects)
    assert (d.state.book.cash, d.state.book.fees) == (account.cash, Decimal(difference))
    assert d.state.risk.reconciled
    assert d.put(account.report(d.at(3))) == []


def adjusted(*amounts: str) -> tuple[Desk, Account]:
    """A desk that booked these movements of cash one by one, before any line told them."""
    d = holding(account := Account())
    for minute, amount in enumerate(amounts, 2):
        account.cash += Decimal(amount)
        d.put(account.report(d.at(minute)), account.report(d.at(minute, 10)))
    assert d.state.book.cash == account.cash
    return d, account


def tell_lines(account: Account, *amounts: str) -> None:
    """Their lines come: of cash that moved before."""
    account.lines += [line("FEE", quantity=number, amount=amount) for number, amount in enumerate(amounts)]


LATE = {
    "each by its line": (("-0.80", "-0.80"), ("-0.80", "-0.80")),
    "other lines that sum to it": (("-0.80", "-0.70"), ("-0.60", "-0.90")),
    "the newer ones alone": (("-0.15", "-0.90", "-0.80"), ("-0.90", "-0.80")),
    "one alone": (("-0.15", "-0.90"), ("-0.90",)),
}


@pytest.mark.parametrize(("amounts", "lines"), LATE.values(), ids=LATE)
@pytest.mark.parametrize("again", [False, True])
def test_a_little_cash_that_was_booked_unexplained_is_taken_back_when_its_lines_come(
    amounts: tuple[str, ...], lines: tuple[str, ...], again: bool
) -> None:
    d, account = adjusted(*amounts)
    if again:
        d.put(ev.RunStarted(d.at(6), "live", "desk-1", "pointer", "e1", "c", "sip", d.state.trading))
    tell_lines(account, *lines)
    effects = d.put(account.report(d.at(7)))
    assert alarms(effects) == []
    assert d.state.book.cash == account.cash
    assert d.state.book.fees == -sum(map(Decimal, amounts))
    assert (d.state.risk.reconciled, d.halted()) == (True, "")
    agreed(d, account, 8)


@pytest.mark.parametrize("lines", [("-0.80", "-0.60"), ("0.30", "-0.31"), ()])
def test_cash_that_lines_do_not_sum_to_is_not_taken_back(lines: tuple[str, ...]) -> None:
    """1.60 comes beside what the lines say, which is as much as was booked unexplained."""
    d, account = adjusted("-0.80", "-0.80")
    account.cash += Decimal("1.60") + sum(map(Decimal, lines))
    tell_lines(account, *lines)
    effects = d.put(account.report(d.at(7)), account.report(d.at(7, 10)))
    assert "cash_unexplained" in alarms(effects)


def test_it_is_taken_back_once() -> None:
    d, account = adjusted("-0.80", "-0.80")
    tell_lines(account, "-0.80", "-0.80")
    agreed(d, account, 7)
    account.lines += [line("FEE", quantity=number, amount="-0.80") for number in (7, 8)]  # and no cash goes for them
    effects = d.put(account.report(d.at(8)), account.report(d.at(8, 10)))
    assert "cash_unexplained" in alarms(effects)


def test_lines_that_told_other_cash_explain_nothing_later() -> None:
    d, account = adjusted("-0.80", "-0.80")
    account.book(line("FEE", quantity=7, amount="-0.80"))
    account.book(line("FEE", quantity=8, amount="-0.80"))
    agreed(d, account, 7)
    account.cash += Decimal("1.60")
    effects = d.put(account.report(d.at(8)), account.report(d.at(8, 10)))
    assert "cash_unexplained" in alarms(effects)


def test_after_the_broker_s_word_nothing_is_taken_back() -> None:
    d, account = adjusted("-0.80", "-0.80")
    d.put(ev.AcceptBrokerRequested(d.at(6), "x", "ann"))
    d.put(account.report(d.at(6, 5)))
    assert d.state.broker.adjusted is UNSET
    tell_lines(account, "-0.80", "-0.80")
    account.cash += Decimal("-1.60")
    agreed(d, account, 7)


def accepted(account: Account, cash: str) -> Desk:
    """A desk whose person accepted that the account has this much more cash."""
    d = at_broker(account)
    account.cash += Decimal(cash)
    d.put(ev.AcceptBrokerRequested(d.at(1), "they are there", "ann"), account.report(d.at(1, 1)))
    return d


INTEREST, FEE = line("INT", amount="20.00"), line("FEE", amount="-12.30")


@pytest.mark.parametrize("told", [((INTEREST, FEE),), ((INTEREST,), (FEE,)), ((FEE,), (INTEREST,))])
@pytest.mark.parametrize("unexplained", ["0", "333"])
def test_lines_whose_cash_was_accepted_as_one_sum_are_not_booked_again(
    told: tuple[tuple[ev.Activity, ...], ...], unexplained: str
) -> None:
    d = accepted(account := Account(), str(Decimal(unexplained) + Decimal("7.70")))
    for minute, lines in enumerate(told):
        account.lines += lines
        d.put(account.report(d.at(2 + minute)))
        agreed(d, account, 2 + minute, 15)
    assert (d.state.book.realized, d.halted()) == (Decimal(0), "accept_broker")
    account.book(line("FEE", amount="-0.40"))
    agreed(d, account, 5)
    assert d.state.book.realized == Decimal("-0.40")


@pytest.mark.parametrize("cash", ["20", "15"])
def test_a_line_of_accepted_cash_waits_while_the_cash_of_another_line_hides_it(cash: str) -> None:
    """The fee is of after the acceptance, and its line comes last."""
    d = accepted(account := Account(), cash)
    account.lines.append(INTEREST)
    account.cash += FEE.amount
    d.put(account.report(d.at(2)), account.report(d.at(2, 11)))
    account.lines.append(FEE)
    d.put(account.report(d.at(3)))
    agreed(d, account, 3, 15)
    assert d.state.book.realized == FEE.amount


def test_a_line_of_after_an_acceptance_that_comes_a_moment_before_its_cash_is_booked() -> None:
    d = accepted(account := Account(), "333")
    account.lines.append(INTEREST)
    agreed(d, account, 2)
    account.cash += INTEREST.amount
    agreed(d, account, 2, 15)
    assert d.state.book.realized == INTEREST.amount


def test_an_order_on_its_way_while_the_broker_s_word_is_accepted_is_cancelled_when_it_arrives() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    order = sent(d.answer(BUY_CALL))
    d.put(ev.AcceptBrokerRequested(d.at(1, 1), "x", "ann"))
    d.put(account.report(d.at(1, 2)))
    name = account.take(order, d.at(1, 3))
    effects = d.put(ev.OrderAccepted(d.at(1, 3), name), account.report(d.at(1, 20)), account.report(d.at(1, 40)))
    assert (set(canceling(effects)), alarms(effects), d.halted()) == ({name}, [], "accept_broker")
    account.end(name)
    d.put(ev.OrderCanceled(d.at(1, 41), name))
    agreed(d, account, 4)


def test_an_order_that_ended_here_and_works_at_the_broker_is_a_difference_that_is_cancelled_and_halts() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = account.take(sent(d.answer(BUY_CALL)), d.state.now_ns)
    d.put(ev.HaltRequested(d.at(1), "operator", "x", "ann"), ev.OrderExpired(d.at(1, 1), name))
    effects = d.put(account.report(d.at(1, 2)))
    assert (canceling(effects), d.state.risk.reconciled) == ([], False)  # the listing may be a moment old
    effects = d.put(account.report(d.at(1, 12)))
    assert canceling(effects) == [name]
    account.end(name)
    agreed(d, account, 2)


def test_an_order_under_our_name_that_only_the_broker_has_halts() -> None:
    d = at_broker(account := Account())
    account.by_hand("e1-pointer-99-0-0", CALL, 1, 1, d.at(0))
    d.put(account.report(d.at(1)))
    assert (d.halted(), d.state.risk.reconciled) == ("foreign_order", False)
    assert "e1-pointer-99-0-0" in str(d.state.risk.halt)


def test_an_order_of_an_earlier_session_that_ended_and_was_forgotten_is_passed_over() -> None:
    d = holding(account := Account())
    d.bar(1)
    sale = account.take(sent(d.answer(EXIT)), d.state.now_ns)
    d.put(account.fill(sale, 9, "2.10", d.at(2)))
    d.begin(TUESDAY, "2024-07-03")
    assert d.state.closed == {}
    agreed(d, account, 1)
    assert (d.halted(), len(account.report(0).ended_orders)) == ("", 2)


# --- the same word twice ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("broker", [Broker(), ADOPT, IGNORE], ids=["halt", "adopt", "ignore"])
def test_the_same_report_twice_changes_nothing_the_second_time(broker: Broker) -> None:
    d = holding(account := Account(), broker)
    account.by_hand("ann-1", CALL, 1, 2, d.at(1))
    account.fill("ann-1", 1, "2.00", d.at(1))
    account.book(line("FEE", amount="-0.30"))
    account.book(line("CSD", amount="100"))
    report = account.report(d.at(2))
    d.put(report)
    first = d.state
    assert [e for e in d.put(report) if not isinstance(e, AskBroker)] == []
    assert d.state == replace(first, seq=first.seq + 1)


def test_the_ids_of_ledger_lines_are_kept_up_to_a_bound_and_the_last_ones_stay() -> None:
    d = at_broker(account := Account())
    for n in range(SEEN_MAX + 5):
        account.book(replace(line("FEE", amount="-0.01"), id=f"fee-{n}"))
    agreed(d, account, 1)
    ids = d.state.broker.seen
    assert (len(ids), ids[0], ids[-1]) == (SEEN_MAX, "fee-5", f"fee-{SEEN_MAX + 4}")
    d.put(replace(account.report(d.at(2)), activities=tuple(account.lines[-SEEN_MAX:])))
    assert d.state.book.fees == Decimal("20.05")


def test_a_report_survives_json_between_any_two_steps() -> None:
    d = holding(account := Account(), IGNORE)
    account.by_hand("ann-1", CALL, 1, 2, d.at(1))
    account.fill("ann-1", 1, "2.00", d.at(1))
    d.state = d.core.decoder().decode(encode_state(d.state))
    d.reload = True
    agreed(d, account, 2)


# --- reported when it lasts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("minute", "second", "names"), [(5, 59, []), (6, 0, ["unreconciled"])])
def test_a_desk_that_stays_unreconciled_because_an_order_is_unknown_tells_after_five_minutes(
    minute: int, second: int, names: list[str]
) -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = sent(d.answer(BUY_CALL)).client_order_id
    d.put(ev.OrderUnknown(d.at(1, 5), name), ev.BrokerLost(d.at(1, 5), "stream ended"))
    for at in range(2, 6):
        d.put(account.report(d.at(at)), ev.OrderMissing(d.at(at, 3), name))
    assert not d.state.risk.reconciled
    effects = d.tick(minute, second)
    assert alarms(effects) == names
    assert not names or name in str(effects)


def test_an_order_whose_fate_stays_unknown_is_named_although_all_else_agrees() -> None:
    d = at_broker(account := Account())
    d.bar(0)
    name = sent(d.answer(BUY_CALL)).client_order_id
    d.put(ev.OrderUnknown(d.at(1, 5), name))
    names = []
    for at in range(2, 60):
        d.put(account.report(d.at(at)), ev.OrderMissing(d.at(at, 3), name))
        effects = d.tick(at, 4)
        names += alarms(effects)
        assert not alarms(effects) or name in str(effects)
    assert (names, d.state.risk.reconciled, d.order(name).status) == (["unreconciled"], True, "unknown")


def test_a_desk_that_never_heard_from_its_broker_tells_once_a_session() -> None:
    d = Desk(mode="live").begin()
    names = [alarms(d.tick(minute)) for minute in (-1, 4, 5, 6, 100)]
    assert names == [[], [], ["unreconciled"], [], []]
    assert "no report agreed" in str(d.effects)
    d.begin(TUESDAY, "2024-07-03")
    assert alarms(d.tick(5)) == ["unreconciled"]


def test_a_replay_and_a_desk_out_of_session_have_nothing_to_tell() -> None:
    assert alarms(Desk().begin().tick(100)) == []
    d = Desk(mode="live").begin()
    assert alarms(d.tick(390)) == []
    assert alarms(Desk(mode="live").tick(100)) == []


def test_a_reconciled_desk_is_not_told_of() -> None:
    d = at_broker(Account())
    assert alarms(d.tick(300)) == []


def test_orders_of_the_paper_broker_need_no_report() -> None:
    d = desk(mode="dry_run")
    d.buys()
    assert of(d.tick(1, 30), LookUpOrder) == []
    assert len(of(d.effects, SubmitOrder)) == 1
