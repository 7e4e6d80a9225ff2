"""Fractions of shares at a desk that decides once a session: orders, auction, books, others, restarts; by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import CancelOrder, RaiseAlarm, SubmitOrder
from daemon.core.limits import Basket, Broker, Paper, Protection, Risk, Trading
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.records import BasketRow
from daemon.core.state import EVERY_SYMBOL, State, encode_state
from daemon.core.step import Core
from strategies.kit.contract import Session
from strategies.kit.quantity import Part, exact
from tests.support.core.account import Account, line
from tests.support.core.daily_desk import KEEP, LAST_FRIDAY, SYMBOLS, DailyDesk, daily_desk, decided, orders, tuesday
from tests.support.core.daily_live import live, with_shares
from tests.support.core.desk import MONDAY, TUESDAY, alarms, of

ON = Trading(basket=Basket(fractions="on"))
OFF = Trading(basket=Basket(fractions="off"))
AT_100 = dict.fromkeys(SYMBOLS, "100")
FREE = Paper(share_cost_rate=Decimal(0), share_wait_rate=Decimal(0))


def q(text: str) -> Part:
    part = exact(text)
    assert isinstance(part, Part)
    return part


def hold(d: DailyDesk, quantity: str) -> None:
    """Let the book hold this quantity of AAA at the cost that it has."""
    position = d.state.book.positions["AAA"]
    d.state = replace(d.state, book=replace(d.state.book, positions={"AAA": replace(position, quantity=q(quantity))}))


# --- what is ordered --------------------------------------------------------------------------------------------------


def test_a_goal_is_cut_to_the_step_and_bought_as_a_fraction() -> None:
    d = daily_desk(ON)
    decided(d, 12.34567, 0.00009, KEEP)  # 1.2 cents of BBB are below the least order
    assert orders(d.quotes(0, **AT_100)) == [("AAA", q("12.3456"), "100.2000")]
    d.fill("e1-shelf-1-0-0", q("12.3456"), "100")
    assert (d.held, d.state.book.cash) == ({"AAA": q("12.3456")}, Decimal("8765.44"))


def test_a_goal_beyond_all_measure_is_no_error_of_the_core_and_costs_no_more_than_the_cash() -> None:
    """It holds half a share: the steps that are missing have more digits than a quantity may have."""
    d = with_shares(Account(), Trading(basket=Basket(fractions="on", auction=False)), AAA=0.5)
    decided(d, 10**17, KEEP, KEEP)
    assert sum(100 * order[1] for order in orders(d.quotes(0, **AT_100))) <= 9950
    assert (d.state.risk.halt, d.held) == (None, {"AAA": q("0.5")})


def test_without_fractions_the_same_goal_is_whole_shares() -> None:
    d = daily_desk(OFF)
    decided(d, 12.9, KEEP, KEEP)
    assert orders(d.quotes(0, **AT_100)) == [("AAA", 12, "100.2000")]


@pytest.mark.parametrize(("cash", "fractions"), [("5999.99", True), ("6000", False)])
def test_auto_takes_fractions_where_an_equal_part_pays_for_fewer_than_20_shares(cash: str, fractions: bool) -> None:
    d = daily_desk(cash=cash)  # three symbols at 100 USD
    decided(d, 0.5, KEEP, KEEP)
    assert d.state.basket.fractions is fractions
    assert orders(d.quotes(0, **AT_100)) == ([("AAA", q("0.5"), "100.2000")] if fractions else [])


def test_auto_is_chosen_once_and_a_journal_that_sent_orders_before_stays_whole() -> None:
    d = daily_desk()
    decided(d, 10, KEEP, KEEP)
    d.quotes(0, **AT_100)
    d.state = replace(
        d.state, basket=replace(d.state.basket, fractions=UNSET), book=replace(d.state.book, equity=Decimal(900))
    )
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.begin(TUESDAY)
    decided(d, 0.5, KEEP, KEEP)
    assert d.state.basket.fractions is False


@pytest.mark.parametrize(("cash", "named"), [("299.99", ["AAA", "BBB", "CCC"]), ("300", [])])
def test_an_account_that_pays_for_no_share_of_a_symbol_says_so_once_a_session(cash: str, named: list[str]) -> None:
    d = daily_desk(OFF, cash=cash)  # three symbols at 100 USD
    decided(d, 1, KEEP, KEEP)
    account_alarms = [
        effect for effect in d.effects if isinstance(effect, RaiseAlarm) and effect.name == "account_too_small"
    ]
    assert bool(account_alarms) is bool(named)
    for alarm in account_alarms:
        assert alarm.detail == (
            "299.99 USD over 3 symbols are 99.99 each, less than one share of AAA at 100.00 USD, BBB at 100.00 USD, "
            "CCC at 100.00 USD: what is below one share is not held; 300 USD hold them, or set basket.fractions = "
            '"on"'
        )
    alarm_count = len(account_alarms)
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.begin(TUESDAY)
    decided(d, 1, KEEP, KEEP)
    again = [effect for effect in d.effects if isinstance(effect, RaiseAlarm) and effect.name == "account_too_small"]
    assert len(again) == alarm_count + bool(named)


def test_an_account_that_is_not_known_yet_is_not_called_too_small() -> None:
    """A new journal's book is empty until its first report is taken over: the phone said `0.00 USD over 3 symbols`."""
    d = daily_desk(OFF, cash="0")
    d.state = replace(d.state, risk=replace(d.state.risk, reconciled=False))
    decided(d, 1, KEEP, KEEP)
    assert not [effect for effect in d.effects if isinstance(effect, RaiseAlarm) and effect.name == "account_too_small"]


def test_with_fractions_only_a_symbol_that_the_broker_does_not_divide_is_out_of_reach() -> None:
    d = daily_desk(ON, cash="150")
    d.state = replace(d.state, basket=replace(d.state.basket, indivisible=("BBB",)))
    decided(d, 0.2, KEEP, KEEP)
    (alarm,) = [effect for effect in d.effects if isinstance(effect, RaiseAlarm)]
    assert alarm.name == "account_too_small"
    assert "150.00 USD over 3 symbols are 50.00 each, less than one share of BBB at 100.00 USD: what" in alarm.detail
    assert "; 300 USD hold them, the broker takes no fraction of them" in alarm.detail


def test_exits_sell_all_nine_places_the_whole_part_into_the_auction_and_the_rest_after_the_open() -> None:
    d = tuesday(ON, AAA=10)
    position = d.state.book.positions["AAA"]
    d.state = replace(
        d.state, book=replace(d.state.book, positions={"AAA": replace(position, quantity=q("10.123456789"))})
    )
    decided_now = decided(d, 0, KEEP, KEEP)
    assert decided_now == [("AAA", -10, None)]
    name = next(iter(d.state.orders))
    assert d.order(name).auction
    d.fill(name, 10, "100")
    rest = orders(d.quotes(0.1, **AT_100))
    assert [(symbol, quantity) for symbol, quantity, _ in rest] == [("AAA", q("-0.123456789"))]
    newest = list(d.state.orders)[-1]
    assert not d.order(newest).auction
    d.fill(newest, q("0.123456789"), "100")
    d.tick(1)
    assert d.held == {}
    assert d.state.works == {}


def test_less_than_a_share_waits_for_the_open_as_one_order() -> None:
    d = tuesday(ON, AAA=10)
    decided(d, 9.5, KEEP, KEEP)
    assert d.state.orders == {}
    assert [order[:2] for order in orders(d.quotes(0, **AT_100))] == [("AAA", q("-0.5"))]


def test_a_basket_leaves_out_what_is_worth_less_than_the_least_order_but_never_an_exit() -> None:
    d = tuesday(ON, AAA=10)
    hold(d, "0.005")
    decided(d, 0.004, KEEP, KEEP)  # ten cents less
    assert orders(d.quotes(0, **AT_100)) == []
    d.put(ev.FlattenRequested(d.at(1), "out", "ann"))
    assert [order[:2] for order in orders(d.quotes(1, **AT_100)) or orders(d.effects[-3:])] == [("AAA", q("-0.005"))]


@pytest.mark.parametrize(
    ("goal", "opens", "rest"),
    [
        (6.995, "100", []),  # 50 cents beside three shares: they stay
        (6.985, "100", [("AAA", -0.015)]),
        (6.9898, "97", []),  # 1.02 USD at the close of the decision, 99 cents after the open
    ],
)
def test_a_fraction_that_the_auction_leaves_stays_where_it_is_worth_less_than_the_least_order(
    goal: float, opens: str, rest: list[tuple[str, float]]
) -> None:
    d = tuesday(ON, AAA=10)
    assert decided(d, goal, KEEP, KEEP) == [("AAA", -3, None)]
    d.fill(next(iter(d.state.orders)), 3, opens)
    changes = orders(d.quotes(0.1, AAA=opens))
    assert [(symbol, float(quantity)) for symbol, quantity, _ in changes] == rest
    if not rest:
        assert (d.held, d.state.works) == ({"AAA": 7}, {})


def test_in_regular_hours_shares_and_a_fraction_are_one_order_however_small_the_fraction() -> None:
    d = tuesday(Trading(basket=Basket(fractions="on", auction=False)), AAA=10)
    assert decided(d, 6.995, KEEP, KEEP) == []
    assert [order[:2] for order in orders(d.quotes(0, **AT_100))] == [("AAA", q("-3.005"))]


def test_short_cash_is_shared_in_fractions_in_proportion() -> None:
    d = daily_desk(ON, cash="1000")
    decided(d, 6, 6, 3)
    changes = orders(d.quotes(0, **AT_100))
    # 1,000 USD pay for 9.97 of 15 shares at 100.2 x 1.001; a part of 2^-20 of whole cents, cut to the step
    assert [symbol for symbol, _, _ in changes] == ["AAA", "BBB", "CCC"]
    counts = [Decimal(str(quantity)) for _, quantity, _ in changes]
    assert counts[0] == counts[1] == 2 * counts[2] or abs(counts[0] - 2 * counts[2]) <= Decimal("0.0001")
    cost = sum(counts) * Decimal("100.2") * Decimal("1.001")
    assert Decimal("999.9") < cost <= 1000


def test_a_part_of_the_cash_that_is_too_small_for_an_order_is_left_out() -> None:
    d = daily_desk(ON, cash="2.5")
    decided(d, 1, 1, 0.1)  # 210 USD are wanted, 1.2 % are paid for: 1.19, 1.19 and 0.12 USD
    assert [symbol for symbol, _, _ in orders(d.quotes(0, **AT_100))] == ["AAA", "BBB"]


def test_a_basket_says_how_far_it_came() -> None:
    d = daily_desk(OFF, cash="1000")
    decided(d, 6, 6, KEEP)
    d.quotes(0, **AT_100)
    for name in list(d.state.orders):
        d.fill(name, d.order(name).quantity, "100")
    d.tick(1)
    # 9 of 12 shares: 9.97 are paid for, 4.98 of each, and one is left for the first: 5 and 4 of 6 at 100 of 1,000 USD
    (row,) = [row for row in d.rows if isinstance(row, BasketRow)]
    assert d.held == {"AAA": 5, "BBB": 4}
    assert (row.decision, row.symbol) == (1, "BBB")
    assert (row.apart, row.largest) == pytest.approx((0.3, 0.2))


# --- what the broker refuses ------------------------------------------------------------------------------------------


NO_FRACTIONS = ('asset "AAA" is not fractionable', "account is not authorized to trade fractional shares")


@pytest.mark.parametrize("why", NO_FRACTIONS)
def test_a_symbol_of_which_the_broker_takes_no_fraction_is_bought_in_whole_shares(why: str) -> None:
    d = with_shares(account := Account(), Trading(basket=Basket(fractions="on", auction=False)))
    decided(d, 12.5, KEEP, KEEP)
    first = of(d.quotes(0, **AT_100), SubmitOrder)[0]
    account.end(account.take(first, d.state.now_ns), "rejected")
    effects = d.put(ev.OrderRejected(d.at(0.1), first.client_order_id, why))
    changes = orders(effects) or orders(d.quotes(0.2, **AT_100))
    assert [order[:2] for order in changes] == [("AAA", 12)]
    assert [d.state.basket.is_indivisible(symbol) for symbol in SYMBOLS] == [
        True,
        why != NO_FRACTIONS[0],
        why != NO_FRACTIONS[0],
    ]
    assert d.state.risk.outcomes.count(True) == 0  # the rule of an asset, or an account, is no fault of the desk
    assert (d.state.broker.blocked, alarms(effects)) == ("", ["order_rejected"])


@pytest.mark.parametrize(
    ("session", "refused", "change"), [(MONDAY, "AAA", "12.5"), (TUESDAY, "AAA", "12"), (TUESDAY, EVERY_SYMBOL, "12.5")]
)
def test_a_fraction_that_was_refused_is_asked_for_again_in_the_next_week_or_by_the_account_the_next_day(
    session: Session, refused: str, change: str
) -> None:
    d = daily_desk(ON)
    if session == TUESDAY:
        d.end(**dict.fromkeys(SYMBOLS, 100.0))
    former = d.state.session if session == TUESDAY else replace(d.state.session, session=LAST_FRIDAY)
    d.state = replace(d.state, session=former, basket=replace(d.state.basket, indivisible=(refused,)))
    d.begin(session)
    decided(d, 12.5, KEEP, KEEP)
    assert [(order[0], str(order[1])) for order in orders(d.quotes(0, **AT_100))] == [("AAA", change)]


@pytest.mark.parametrize(("step", "indivisible"), [("0.5", ()), ("0.0001", ("AAA",))])
def test_a_goal_of_what_is_held_sells_nothing_whatever_the_step(step: str, indivisible: tuple[str, ...]) -> None:
    """1.9 shares were bought in steps of 0.0001; then the step is another, or the broker divides AAA no more."""
    d = with_shares(Account(), ON, AAA=1.9)
    rules = Trading(basket=Basket(fractions="on", order_step=Decimal(step)))
    d.state = replace(d.state, trading=rules, basket=replace(d.state.basket, indivisible=indivisible))
    decided(d, 1.9, KEEP, KEEP)
    assert (d.state.works, d.decisions()[-1].outcome) == ({}, "hold")
    assert d.held == {"AAA": q("1.9")}


@pytest.mark.parametrize("why", [*NO_FRACTIONS, "cost basis must be >= minimal amount of order 1"])
def test_refused_exits_of_fractions_halt_nothing(why: str) -> None:
    rules = Trading(basket=Basket(fractions="on", auction=False), risk=Risk(reject_rate_orders=2))
    d = with_shares(account := Account(), rules, AAA=0.5, BBB=0.5, CCC=0.5)
    decided(d, 0.0, 0.0, 0.0)
    for order in of(d.quotes(0, **AT_100), SubmitOrder):
        account.end(account.take(order, d.state.now_ns), "rejected")
        d.put(ev.OrderRejected(d.state.now_ns, order.client_order_id, why))
    d.put(account.report(d.at(1)))
    calls = of(d.quotes(2, **AT_100) + d.put(account.report(d.at(2, 1))) + d.tick(2, 2), SubmitOrder)
    assert sorted((order.symbol, order.closing) for order in calls) == [(symbol, True) for symbol in SYMBOLS]
    assert (d.state.risk.halt, d.state.broker.blocked) == (None, "")


def test_a_fraction_that_no_order_may_sell_leaves_by_the_close_call() -> None:
    d = with_shares(account := Account(), Trading(basket=Basket(fractions="on", auction=False)), AAA=10)
    account.positions["AAA"] = (q("0.4"), Decimal(100))
    position = d.state.book.positions["AAA"]
    d.state = replace(
        d.state, book=replace(d.state.book, positions={"AAA": replace(position, quantity=q("0.4"), cost=Decimal(40))})
    )
    account.cash += 960
    d.state = replace(d.state, book=replace(d.state.book, cash=d.state.book.cash + 960))
    d.put(account.report(d.at(-10)))
    d.put(ev.FlattenRequested(d.at(1), "out", "ann"))
    first = of(d.effects, SubmitOrder)[-1]
    assert (first.quantity, first.closing) == (q("0.4"), False)
    d.put(ev.OrderRejected(d.at(1.1), first.client_order_id, "cost basis must be >= minimal amount of order 1"))
    d.prompt = account.report
    d.tick(3)
    d.tick(5)
    last = of(d.effects, SubmitOrder)[-1]
    assert (last.quantity, last.closing) == (q("0.4"), True)


# --- what others do ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", ["halt", "ignore"])
@pytest.mark.parametrize("trading", [ON, OFF], ids=["fractions", "whole"])
def test_a_fraction_that_somebody_leaves_is_counted_exactly_and_halts_nothing(rule: str, trading: Trading) -> None:
    trading_by_rule = replace_broker(trading, rule)
    d = with_shares(account := Account(), trading_by_rule, AAA=10)
    account.positions["AAA"] = (q("10.123456789"), Decimal(100))
    for minute in (-18, -17, -16):
        d.put(account.report(d.at(minute)))
    assert (d.held, d.state.broker.beside, d.state.risk.halt) == ({"AAA": 10}, {"AAA": q("0.123456789")}, None)
    assert d.state.risk.reconciled
    d.put(ev.SessionEnded(d.session.close_ns, d.session.date), account.report(d.session.close_ns + 1))
    assert "fraction_beside" in alarms(d.effects)


@pytest.mark.parametrize("trading", [ON, OFF], ids=["fractions", "whole"])
def test_a_fraction_that_somebody_left_is_not_sold_beside_an_exit_that_hangs(trading: Trading) -> None:
    d = with_shares(account := Account(), trading, AAA=10)
    account.positions["AAA"] = (q("10.5"), Decimal(100))
    for minute in (-18, -17, -16, 0):
        d.put(account.report(d.at(minute)))
    (order,) = of(d.put(ev.FlattenRequested(d.at(1), "out", "ann")), SubmitOrder)
    name = account.take(order, d.at(1))
    d.put(ev.OrderAccepted(d.at(1), name), account.fill(name, 9, "100", d.at(1)))  # and no cancel is answered
    effects = [effect for minute in (2, 3) for effect in d.put(account.report(d.at(minute))) + d.tick(minute, 10)]
    assert of(effects, SubmitOrder) == []
    d.put(account.fill(name, 1, "100", d.at(4)), account.report(d.at(5)))
    assert (d.held, d.state.broker.beside, d.state.risk.reconciled) == ({}, {"AAA": q("0.5")}, True)


def test_a_new_journal_that_finds_fractions_alone_says_whose_they_count_as_and_what_takes_them_in() -> None:
    account = Account()
    account.positions.update(AAA=(q("0.5"), Decimal(100)), BBB=(q("0.25"), Decimal(100)))
    d = live(account, ON)
    (alarm,) = [effect for effect in d.effects if isinstance(effect, RaiseAlarm) and effect.name == "fraction_beside"]
    assert "counts what is below one share as others', beside its book: 0.5 AAA, 0.25 BBB; where" in alarm.detail
    assert (d.held, d.state.risk.halt) == ({}, None)
    d.put(ev.AcceptBrokerRequested(d.at(-19), "the old journal is lost", "ann"), account.report(d.at(-18)))
    assert d.held == {"AAA": q("0.5"), "BBB": q("0.25")}


def test_a_fraction_of_what_the_broker_does_not_divide_rests_no_stop_and_the_alarm_says_why() -> None:
    rules = Protection(rest_at_broker=True, disaster_stop=0.2)
    d = with_shares(account := Account(), Trading(basket=ON.basket, protection=rules), AAA=10.5)
    d.state = replace(d.state, basket=replace(d.state.basket, indivisible=("AAA",)))
    for minute in range(6):
        d.quotes(minute, AAA="100")
        d.put(account.report(d.at(minute) + 1))
    unprotected = [effect for effect in d.effects if isinstance(effect, RaiseAlarm) and effect.name == "unprotected"]
    assert [alarm.detail for alarm in unprotected][-1:] == [
        "0.5 of a share of AAA: no stop rests at the broker; the broker takes no order for a fraction of it"
    ]


def test_adopt_alone_takes_it_in() -> None:
    d = with_shares(account := Account(), replace_broker(ON, "adopt"), AAA=10)
    account.positions["AAA"] = (q("10.5"), Decimal(100))
    for minute in (-18, -17, -16):
        d.put(account.report(d.at(minute)))
    assert (d.held, d.state.risk.halt) == ({"AAA": q("10.5")}, None)


def test_a_person_who_sells_the_fraction_beside_sells_nothing_of_the_desk() -> None:
    d = with_shares(account := Account(), replace_broker(OFF, "ignore"), AAA=10)
    account.positions["AAA"] = (q("10.5"), Decimal(100))
    for minute in (-18, -17):
        d.put(account.report(d.at(minute)))
    account.by_hand("ann-1", "AAA", -1, q("0.5"), d.at(-16))
    account.fill("ann-1", q("0.5"), "100", d.at(-16))
    d.put(account.report(d.at(-15)), account.report(d.at(-14)))
    assert (d.held, d.state.risk.halt, d.state.broker.foreign_held) == ({"AAA": 10}, None, {})


@pytest.mark.parametrize("rule", ["halt", "ignore"])
def test_with_fractions_a_sale_of_less_than_a_share_by_others_is_no_reinvested_dividend(rule: str) -> None:
    d = with_shares(account := Account(), replace_broker(ON, rule), AAA=10)
    account.by_hand("ann-1", "AAA", -1, q("0.5"), d.at(-16))
    d.put(account.report(d.at(-15)))
    halt = d.state.risk.halt
    assert halt is not None
    assert (halt.reason, "ann-1" in halt.detail) == ("foreign_order", True)  # at its first news: it is of the desk's


def test_with_fractions_a_split_is_exact_and_without_it_whole_shares_are_counted() -> None:
    for trading, shares_after in ((ON, q("7.5")), (OFF, 7)):
        d = DailyDesk(trading, mode="live")
        account = Account()
        d = with_shares(account, trading, AAA=5)
        account.positions["AAA"] = (q("7.5"), Decimal("66.6667"))
        account.lines.append(replace(line("SPLIT", "AAA", 0), quantity=Decimal("2.5")))
        d.put(account.report(d.at(-18)), account.report(d.at(-17)))
        assert (d.held["AAA"], d.state.risk.halt) == (shares_after, None)


@pytest.mark.parametrize("rule", ["off", "auto"])
def test_fractions_that_are_held_are_counted_exactly_after_the_desk_may_buy_none(rule: str) -> None:
    """3.3335 shares at 100 are 6.667 at 50 after the split: nothing is lost, and nothing stays at the exit."""
    d = with_shares(account := Account(), ON, AAA=3.3335)
    trading = OFF if rule == "off" else Trading()
    d.put(
        ev.RunStarted(d.at(-18), "live", "desk-1", "shelf", "e1", "c", "sip", trading),
        ev.ModelVerified(d.at(-18), "v1", "d", promoted=True, feed="sip"),
        account.report(d.at(-17)),
    )
    account.positions["AAA"] = (q("6.667"), Decimal(50))
    account.lines.append(replace(line("SPLIT", "AAA", q("3.3335")), time_ns=d.at(-570)))
    d.put(account.report(d.at(-16)), account.report(d.at(-15.5)))
    assert (d.held, d.state.broker.beside_fractions, d.state.book.equity) == ({"AAA": q("6.667")}, {}, Decimal(10_000))
    d.put(ev.FlattenRequested(d.at(-10), "out", "ann"))
    sale = of(d.quotes(0, AAA="50"), SubmitOrder)[-1]
    assert (sale.symbol, sale.quantity) == ("AAA", q("6.667"))


# --- cash that is rounded ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("apart", "is_booked"), [("0.01", True), ("-0.01", True), ("0.02", False)])
def test_a_cent_for_a_fill_of_a_fraction_is_rounding_and_no_fee(apart: str, is_booked: bool) -> None:
    d = live(account := Account(), Trading(basket=Basket(fractions="on"), broker=Broker(cash_tolerance_usd=Decimal(0))))
    d.due()
    d.answer(0.3333, KEEP, KEEP)
    (order,) = of(d.quotes(0, **AT_100), SubmitOrder)
    name = account.take(order, d.state.now_ns)
    d.put(account.fill(name, order.quantity, "100", d.state.now_ns))
    account.cash += Decimal(apart)
    d.put(account.report(d.at(1)))
    book = d.state.book
    assert (d.state.book.cash == account.cash, d.state.risk.reconciled) == (is_booked, is_booked)
    assert (book.fees, book.realized) == (Decimal(0), Decimal(apart) if is_booked else Decimal(0))
    assert "cash_adjusted" not in alarms(d.effects)


def test_a_cent_for_another_s_fill_of_a_fraction_is_rounding_too() -> None:
    rules = Trading(broker=Broker(cash_tolerance_usd=Decimal(0), foreign_orders="ignore"))
    d = with_shares(account := Account(), rules, AAA=10)
    account.by_hand("ann-1", "BBB", 1, q("0.3333"), d.at(-16))
    account.fill("ann-1", q("0.3333"), "100", d.at(-16))
    account.cash -= Decimal("0.01")
    d.put(account.report(d.at(-15)), account.report(d.at(-14)))
    assert (d.state.risk.reconciled, d.state.book.cash, d.state.book.fees) == (True, account.cash, Decimal(0))


# --- the state, the paper broker, the stop ----------------------------------------------------------------------------


def test_a_state_with_fractions_goes_through_json_and_whole_ones_look_as_before() -> None:
    d = daily_desk(ON)
    d.reload = True
    decided(d, 0.5, 2, KEEP)
    d.quotes(0, **AT_100)
    text = encode_state(d.state)
    assert b'"quantity":"0.5"' in text
    assert b'"quantity":2,' in text
    again: State[object] = Core(d.strategy).decoder().decode(text)
    assert encode_state(again) == text


def test_the_paper_broker_fills_a_fraction_takes_none_into_the_auction_and_ends_its_stop_with_the_day() -> None:
    broker = SharePaperBroker(Trading(paper=FREE), SYMBOLS)
    assert broker._paper.share_cost_rate == 0
    d = tuesday(Trading(paper=FREE, basket=Basket(fractions="on")), AAA=10)
    state = broker.start()
    scheduled = ev.SessionScheduled(d.at(-30), d.session, (), ())
    state, _ = broker.step(state, scheduled)
    auction = SubmitOrder("a", "AAA", -1, q("0.5"), None, "", 0, auction=True)
    state, news = broker.step(state, ev.ClockTicked(d.at(-10)), (auction,))
    assert [type(event).__name__ for event in news] == ["OrderRejected"]
    buy = SubmitOrder("b", "AAA", 1, q("1.25"), Decimal(100), "", 0)
    state, _ = broker.step(state, ev.ClockTicked(d.at(0.1)), (buy,))
    state, news = broker.step(state, ev.PricesPrinted(d.at(1), d.session.date, False, (ev.Price("AAA", Decimal(80)),)))
    assert state.holdings["AAA"].quantity == q("1.25")
    assert state.cash == FREE.cash_usd - 100
    for name, count in (("s", q("0.25")), ("w", 1)):
        stop = SubmitOrder(name, "AAA", -1, count, None, "", 0, stop_price=Decimal(50))
        state, news = broker.step(state, ev.ClockTicked(d.at(2)), (stop,))
    state, news = broker.step(state, ev.SessionEnded(d.session.close_ns, d.session.date))
    assert [event.client_order_id for event in news if isinstance(event, ev.OrderExpired)] == ["s"]
    assert [order.client_order_id for order in state.orders] == ["w"]


def covered() -> tuple[DailyDesk, Account, list[SubmitOrder]]:
    """A desk that holds 10.25 AAA on Tuesday, whose two stops rest; the stops that it sent for it that day."""
    rules = Protection(rest_at_broker=True, disaster_stop=0.2)
    d = with_shares(account := Account(), Trading(basket=Basket(fractions="on"), protection=rules), AAA=10)
    (whole,) = d.state.orders.values()  # rests since Monday
    assert (whole.quantity, whole.stop_price) == (10, Decimal(80))
    account.take(next(order for order in of(d.effects, SubmitOrder) if order.stop_price is not UNSET), d.at(-20))
    d.put(ev.OrderAccepted(d.at(-19), whole.client_order_id, f"id-{whole.client_order_id}"))
    account.positions["AAA"] = (q("10.25"), Decimal(100))
    hold(d, "10.25")
    new_stops: list[SubmitOrder] = []
    for minute in (1.0, 2.0, 3.0, 4.0):
        effects = d.put(account.report(d.at(minute))) + d.quotes(minute + 0.1, **AT_100)
        for stop in of(effects, SubmitOrder):
            account.take(stop, d.state.now_ns)
            d.put(ev.OrderAccepted(d.state.now_ns, stop.client_order_id, f"id-{stop.client_order_id}"))
            new_stops.append(stop)
    return d, account, new_stops


def test_a_fraction_has_a_second_stop_beside_that_of_the_whole_shares() -> None:
    d, _, new_stops = covered()
    assert [(stop.quantity, stop.stop_price) for stop in new_stops] == [(q("0.25"), Decimal(80))]
    assert sorted(order.quantity for order in d.state.orders.values()) == [q("0.25"), 10]


@pytest.mark.parametrize("part", ["0.25", "0.1"])
def test_a_sale_of_less_than_the_fraction_takes_its_stop_away_and_leaves_that_of_the_whole_shares(part: str) -> None:
    d, account, (stop,) = covered()
    d.prompt = account.report
    d.put(ev.CloseRequested(d.at(5), "AAA", q(part), "less of it", "ann"))
    assert [cancel.client_order_id for cancel in of(d.effects, CancelOrder)] == [stop.client_order_id]
    account.end(stop.client_order_id)
    d.put(ev.OrderCanceled(d.at(5.1), stop.client_order_id))
    d.quotes(5.3, **AT_100)
    sales = [order for order in of(d.effects, SubmitOrder) if order.side < 0 and order.stop_price is UNSET]
    assert [order.quantity for order in sales] == [q(part)]


def test_refusals_of_the_fraction_s_stop_keep_none_of_the_whole_shares_away() -> None:
    """Others take the whole one away. It rests again after a minute; a fraction's, refused twice, waits for two."""
    d, account, (stop,) = covered()
    (whole,) = [name for name in d.state.orders if name != stop.client_order_id]
    rejected_stop = replace(d.state.orders[stop.client_order_id], status="rejected", news_ns=d.at(5))
    twice = {name: replace(rejected_stop, client_order_id=name) for name in (stop.client_order_id, "e1-shelf-9-2-0")}
    d.state = replace(d.state, orders={whole: d.state.orders[whole]}, closed={**d.state.closed, **twice})
    for name in (whole, stop.client_order_id):
        account.end(name)
    d.put(ev.OrderCanceled(d.at(5.1), whole), account.report(d.at(5.2)))
    orders_after = of(d.put(account.report(d.at(6.2))) + d.quotes(6.3, **AT_100), SubmitOrder)
    assert [order.quantity for order in orders_after] == [10]


def test_in_a_dry_run_the_fraction_has_its_second_stop_too() -> None:
    rules = Protection(rest_at_broker=True, disaster_stop=0.2)
    d = daily_desk(Trading(basket=Basket(fractions="on"), protection=rules))
    decided(d, 10.25, KEEP, KEEP)
    for order in of(d.quotes(0, **AT_100), SubmitOrder):
        d.fill(order.client_order_id, order.quantity, "100")
    for minute in range(1, 6):
        d.quotes(minute, **AT_100)
    assert sorted(order.quantity for order in d.state.orders.values()) == [q("0.25"), 10]
    assert "unprotected" not in alarms(d.effects)


def test_two_stops_that_follow_the_price_wait_for_no_report_of_each_other() -> None:
    """The whole shares' stop was moved: what it covered is free by the book, though no report came since."""
    d, account, (stop,) = covered()
    (whole,) = [name for name in d.state.orders if name != stop.client_order_id]
    canceling_stop = replace(d.state.orders[whole], cancel_asked_ns=d.at(5))
    d.state = replace(d.state, orders={**d.state.orders, whole: canceling_stop})
    account.end(whole)
    orders_after = of(d.put(ev.OrderCanceled(d.at(5.1), whole)) + d.quotes(5.2, **AT_100), SubmitOrder)
    assert [order.quantity for order in orders_after] == [10]


def replace_broker(trading: Trading, rule: str) -> Trading:
    return Trading(basket=trading.basket, broker=Broker(foreign_orders=rule))  # type: ignore[arg-type]
