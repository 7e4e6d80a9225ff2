"""A daily desk at a real broker: reports, fractions, orders that never arrived, restarts in the middle of a basket.

The account of `tests.support.core.account` is the truth; sums are computed by hand.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AnyEffect, LookUpOrder, RaiseAlarm, SubmitOrder
from daemon.core.limits import Basket, Risk, Trading
from strategies.kit.contract import Session
from strategies.kit.quantity import Quantity
from tests.support.core.account import NUMBER, Account, line
from tests.support.core.daily_desk import KEEP, LAST_FRIDAY, SYMBOLS, DailyDesk, Shelf, orders
from tests.support.core.daily_live import ADOPT, IGNORE, live, with_shares
from tests.support.core.desk import HALF_DAY, MONDAY, SECOND, TUESDAY, alarms, canceling, of


def test_a_real_broker_s_limits_lie_on_cents_and_no_cost_is_kept_back() -> None:
    d = live(Account())
    d.due()
    d.answer(100, KEEP, KEEP)
    assert orders(d.quotes(0, AAA="99.79/99.8")) == [("AAA", 100, "100.00")]  # 99.9996: 10,000 USD pay for all of it


def test_a_report_that_agrees_changes_nothing_with_many_positions() -> None:
    d = with_shares(account := Account(), AAA=10, BBB=20, CCC=30)
    before = d.state.book
    assert d.put(account.report(d.at(-10))) == []
    assert (d.state.book, d.state.risk.reconciled) == (before, True)


def test_a_fraction_of_a_share_lies_beside_and_halts_nothing() -> None:
    d = with_shares(account := Account(), AAA=10)
    report = account.report(d.at(-10))
    shares = replace(report.positions[0], quantity=Decimal("10.37"), available=Decimal("10.37"))
    odd = ev.BrokerPosition("CCC", Decimal("0.81"), Decimal(100), Decimal("0.81"))
    for second in (0, 10, 20):
        d.put(
            replace(
                report,
                time_ns=d.at(-10) + second * SECOND,
                asked_ns=d.at(-10) + second * SECOND,
                positions=(shares, odd),
            )
        )
    assert (d.held, d.state.risk.reconciled, d.state.risk.halt) == ({"AAA": 10}, True, None)
    d.due()
    assert orders(d.answer(0, KEEP, KEEP)) == [("AAA", -10, None)]


def test_a_fraction_alone_lets_a_new_journal_begin() -> None:
    account = Account()
    d = DailyDesk(mode="live").begin(MONDAY)
    report = replace(account.report(d.at(-20)), positions=(ev.BrokerPosition("AAA", Decimal("0.4"), Decimal(100)),))
    d.put(report)
    assert (d.state.risk.reconciled, d.state.risk.halt, d.state.book.cash) == (True, None, Decimal(10000))


def test_a_whole_share_too_many_is_somebody_else_s() -> None:
    d = with_shares(account := Account(), AAA=10)
    report = account.report(d.at(-10))
    shares = replace(report.positions[0], quantity=Decimal("11.2"))
    for second in (0, 10):
        now = d.at(-10) + second * SECOND
        d.put(replace(report, time_ns=now, asked_ns=now, positions=(shares,)))
    assert d.state.risk.halt is not None
    assert d.state.risk.halt.detail == "AAA: broker 11.2, book 10 and 0.2 beside it"


def test_shares_of_the_desk_s_symbols_are_adopted_where_that_is_wanted() -> None:
    account = Account("8000")
    account.positions["BBB"] = (20, Decimal(90))
    d = live(account, ADOPT)
    assert (d.held, d.state.risk.reconciled) == ({"BBB": 20}, True)
    beside = live(account, IGNORE)
    assert (beside.held, beside.state.broker.foreign_held) == ({}, {"BBB": 20})


# --- orders that are not there ------------------------------------------------------------------------------------


def test_an_auction_order_that_never_arrived_is_sent_again_while_the_auction_takes_it() -> None:
    d = with_shares(Account(), AAA=10)
    d.due()
    first = of(d.answer(0, KEEP, KEEP), SubmitOrder)[0]
    d.put(ev.OrderUnknown(d.at(-14), first.client_order_id))
    effects = d.put(ev.OrderMissing(d.at(-13), first.client_order_id))
    assert (of(effects, SubmitOrder), set(of(effects, LookUpOrder))) == ([], {LookUpOrder(first.client_order_id)})
    again = of(d.put(ev.OrderMissing(d.at(-12.9), first.client_order_id)), SubmitOrder)  # with a report from after it
    assert again == [first]


@pytest.mark.parametrize("minute", [-2, 1])
def test_one_that_is_missing_later_has_lapsed_and_the_sale_goes_out_after_the_open(minute: int) -> None:
    d = with_shares(Account(), AAA=10)
    d.due()
    name = of(d.answer(0, KEEP, KEEP), SubmitOrder)[0].client_order_id
    d.put(ev.OrderUnknown(d.at(-14), name))
    assert orders(d.put(ev.OrderMissing(d.at(minute), name))) == []
    assert d.order(name).status == "expired"
    assert orders(d.quotes(max(minute, 0), AAA="100")) == [("AAA", -10, "99.80")]


def test_an_auction_order_whose_basket_was_given_up_is_not_sent_again() -> None:
    d = with_shares(Account(), AAA=10)
    d.due()
    name = of(d.answer(0, KEEP, KEEP), SubmitOrder)[0].client_order_id
    d.put(ev.OrderUnknown(d.at(-14), name))
    d.state = replace(d.state, works={})
    assert orders(d.put(ev.OrderMissing(d.at(-13), name))) == []


def test_a_buy_that_never_arrived_is_sent_again_within_its_time() -> None:
    d = live(Account())
    d.due()
    d.answer(10, KEEP, KEEP)
    first = of(d.quotes(0, AAA="100"), SubmitOrder)[0]
    d.put(ev.OrderUnknown(d.at(0.1), first.client_order_id))
    assert of(d.put(ev.OrderMissing(d.at(0.2), first.client_order_id)), SubmitOrder) == [first]


def test_an_order_is_found_again_whatever_the_broker_calls_its_intent() -> None:
    account = Account()
    d = live(account)
    d.due()
    d.answer(10, KEEP, KEEP)
    order = of(d.quotes(0, AAA="100"), SubmitOrder)[0]
    name = account.take(order, d.state.now_ns)
    d.put(account.fill(name, 4, "100", d.at(0.1)))
    d.put(ev.OrderFound(d.at(0.2), replace(account.orders[name], intent="buy_to_open")))
    assert (d.order(name).filled, d.state.risk.halt) == (4, None)
    assert of(d.tick(0.3), LookUpOrder) == []


# --- starts -------------------------------------------------------------------------------------------------------


def test_after_a_start_in_mid_basket_the_broker_is_heard_first_and_the_basket_goes_on() -> None:
    account = Account()
    d = with_shares(account, AAA=10)
    d.due()
    sale = account.take(of(d.answer(0, 20, KEEP), SubmitOrder)[0], d.at(-15))
    d.put(ev.RunStarted(d.at(-3), "live", "desk-1", "shelf", "e1", "code", "sip", Trading(), NUMBER))
    account.fill(sale, 10, "101", d.at(0))
    effects = d.quotes(0, BBB="100")
    assert (orders(effects), alarms(effects)) == ([], [])  # nothing is bought before book and broker agree
    assert orders(d.put(account.report(d.at(0.5)))) == [("BBB", 20, "100.20")]
    assert (d.held, d.state.book.cash, d.state.risk.reconciled) == ({}, Decimal(10010), True)


def test_nothing_enters_the_auction_before_the_broker_is_heard() -> None:
    account = Account()
    d = with_shares(account, AAA=10)
    d.put(ev.RunStarted(d.at(-15), "live", "desk-1", "shelf", "e1", "code", "sip", Trading(), NUMBER))
    d.state = replace(d.state, risk=replace(d.state.risk, reconciled=True))
    d.due()
    assert orders(d.answer(0, KEEP, KEEP)) == []
    assert orders(d.put(account.report(d.at(-14.9)))) == [("AAA", -10, None)]


def test_the_wrong_account_gets_no_order() -> None:
    account = Account()
    d = with_shares(account, AAA=10)
    d.put(account.report(d.at(-16), account="OTHER"))
    d.due()
    assert orders(d.answer(0, KEEP, KEEP)) == []
    assert d.decisions()[-1].outcome == "denied"


def test_a_sale_that_the_broker_refuses_is_asked_about() -> None:
    d = with_shares(Account(), AAA=10)
    d.due()
    name = of(d.answer(0, KEEP, KEEP), SubmitOrder)[0].client_order_id
    effects = d.put(ev.OrderRejected(d.at(-14), name, "no"))
    assert alarms(effects) == ["order_rejected"]
    assert orders(d.tick(-13)) == []
    assert orders(d.quotes(1, AAA="100")) == [("AAA", -10, "99.80")]


# --- prices that were wrong when it was decided, or taken over ----------------------------------------------------


def test_shares_that_were_counted_at_a_bar_s_wrong_price_are_not_bought_at_the_true_one() -> None:
    d = live(Account())
    d.end(AAA=100.0, BBB=100.0, CCC=2.5)  # of CCC, which costs 100 USD, the bar says a fortieth
    d.begin(TUESDAY)
    d.due()
    d.answer(5, KEEP, 400)  # 1,000 USD of CCC at 2.50; at 100 all that there is
    effects = d.quotes(0, AAA="100", CCC="100") + d.quotes(0.1, AAA="100", CCC="100") + d.quotes(1, CCC="100")
    assert (orders(effects), d.state.marks["CCC"]) == ([("AAA", 5, "100.20")], Decimal(100))
    last_effects = d.tick(385)
    detail = "not traded today: +5 AAA, +400 CCC; may still fill: +5 AAA"
    assert of(last_effects, RaiseAlarm)[0].detail == detail


def test_the_bound_of_a_basket_that_waits_is_of_its_decision() -> None:
    d = live(account := Account())
    d.end(AAA=100.0, BBB=100.0, CCC=2.5)
    d.begin(TUESDAY)
    d.put(account.report(d.at(-20), blocked="trading_blocked"))
    d.due()
    d.answer(KEEP, KEEP, 400)
    d.quotes(-10, CCC="100")
    d.quotes(-9, CCC="100")
    d.put(account.report(d.at(-8)))
    assert [work.limit_bound for work in d.state.works.values()] == [Decimal(3)]
    assert orders(d.quotes(0, CCC="100")) == []


def test_the_first_price_of_adopted_shares_is_compared_with_their_cost() -> None:
    account = Account("1000")
    account.positions = {"AAA": (90, Decimal(100))}
    d = live(account, ADOPT)
    assert d.state.marks["AAA"] == 100  # the bar of the session before says what they cost
    d.state = replace(d.state, marks={})
    assert d.quotes(1, AAA="1.00") == []
    assert (d.state.risk.halt, d.state.book.equity, d.state.marks) == (None, Decimal(10000), {})
    d.quotes(1.1, AAA="100")
    assert d.state.marks == {"AAA": Decimal(100)}


def test_a_desk_that_was_resumed_without_its_model_names_what_it_holds_each_session() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(ev.ModelRefused(d.at(1), "policy.onnx is gone"))
    assert d.state.risk.halt is None
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    before = len(d.effects)
    d.begin(HALF_DAY)
    d.put(account.report(d.at(-20)))
    details = {e.name: e.detail for e in of(d.effects[before:], RaiseAlarm)}
    assert details["no_model"] == "no model answers while 10 AAA is held: it was resumed without one"


def test_a_desk_that_a_person_had_halted_is_told_of_its_missing_model_by_the_model_s_words() -> None:
    d = with_shares(account := Account(), AAA=10)
    d.put(ev.HaltRequested(d.at(1), "operator", "back on Monday", "op"))
    d.put(ev.ModelRefused(d.at(2), "its contract hash is another"))
    d.put(ev.HaltRequested(d.at(2), "no_model", "its contract hash is another", "rltraderd", strategy=True))
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    before = len(d.effects)
    d.begin(HALF_DAY)
    d.put(account.report(d.at(-20)))
    d.due()
    details = {e.name: e.detail for e in of(d.effects[before:], RaiseAlarm)}
    why = "its contract hash is another (by rltraderd)"
    assert details["no_model"] == f"no model answers while 10 AAA is held: {why}"
    assert details["rebalance_refused"].endswith(f"the strategy is not asked before a resume: {why}")


@pytest.mark.parametrize(("rules", "halt"), [(ADOPT, "reconciliation"), (None, "foreign_order"), (IGNORE, None)])
def test_a_new_journal_does_not_take_over_shares_of_a_fund_that_is_no_longer_listed(
    rules: Trading | None, halt: str | None
) -> None:
    """GLD is none of the desk's symbols: it halts, or where it shall ignore others, counts them apart and trades on."""
    account = Account("8000")
    account.positions = {"GLD": (20, Decimal(90))}
    d = live(account, rules)
    for second in (0, 15):
        d.put(account.report(d.at(-19, second)))
    assert "GLD" not in SYMBOLS
    assert d.held == {}
    assert (d.state.risk.halt and d.state.risk.halt.reason) == halt
    if halt is None:
        d.due()
        d.answer(5, KEEP, KEEP)
        assert orders(d.quotes(0, AAA="100")) == [("AAA", 5, "100.20")]
        assert d.state.broker.foreign_held == {"GLD": 20}


@pytest.mark.parametrize(
    ("known", "words"),
    [(("AAA", "BBB"), "1 of 3 symbols have fewer than 1 bars: CCC 0"), ((), "no symbol of 3 has a whole history")],
)
def test_a_session_without_a_decision_names_the_funds_with_too_little_history(
    known: tuple[str, ...], words: str
) -> None:
    strategy = Shelf(warm_after=3)
    strategy.spec = replace(Shelf.spec, history_bars=1)
    d = DailyDesk(mode="paper", strategy=strategy).begin()
    if known:
        d.bars(LAST_FRIDAY, **dict.fromkeys(known, 100.0))
    (alarm,) = [effect for effect in of(d.due(), RaiseAlarm) if effect.name == "symbols_masked"]
    assert alarm.detail.startswith(f"no decision for {MONDAY.date}: {words}")


def first_after_open(d: DailyDesk, account: Account, what: str) -> list[AnyEffect]:
    """What a desk hears first at the open: a tick, a report, or a quote of what it buys alone."""
    match what:
        case "tick":
            return d.tick(0)
        case "report":
            return d.put(account.report(d.at(0)))
        case _:
            return d.quotes(0, BBB="100")


@pytest.mark.parametrize("what", ["tick", "report", "quote"])
@pytest.mark.parametrize(
    ("rules", "held", "then"),
    [
        (Basket(auction=False), 95.0, (0, 95, KEEP)),
        (Basket(fractions="on"), 0.95, (0, 0.95, KEEP)),  # the auction takes no part of a share
    ],
)
def test_buys_wait_for_a_sale_that_has_no_quote_yet_at_the_open(
    rules: Basket, held: float, then: tuple[float, ...], what: str
) -> None:
    """All is in AAA, and goes to BBB: with the cash of before the sale it would buy a twentieth."""
    account = Account("10000" if held > 1 else "100")
    d = with_shares(account, Trading(basket=rules), AAA=held)
    d.due()
    effects = d.answer(*then) + first_after_open(d, account, what)
    effects += d.quotes(0.1, AAA="100", BBB="100")
    (sale,) = of(effects, SubmitOrder)
    assert (sale.symbol, sale.side, float(sale.quantity)) == ("AAA", -1, held)
    effects = d.put(account.fill(account.take(sale, d.state.now_ns), sale.quantity, "100", d.state.now_ns))
    effects += d.quotes(0.2, AAA="100", BBB="100") + d.put(account.report(d.at(0.3)))
    assert [(order.symbol, order.side, float(order.quantity)) for order in of(effects, SubmitOrder)] == [
        ("BBB", 1, then[1])
    ]


def test_a_sale_that_finds_no_quote_for_two_intervals_delays_no_buy() -> None:
    d = with_shares(Account(), Trading(basket=Basket(auction=False)), AAA=95)
    d.due()
    d.answer(0, 95, KEEP)
    effects = [effect for second in range(0, 120, 10) for effect in d.quotes(second / 60, BBB="100")]
    assert of(effects, SubmitOrder) == []
    assert [(order.symbol, order.quantity) for order in of(d.quotes(2, BBB="100"), SubmitOrder)] == [("BBB", 4)]


def test_after_a_start_in_mid_basket_buys_wait_for_the_sale_that_nobody_tended() -> None:
    """The daemon was down for 15 minutes, with the sale of all that it holds at the broker."""
    rules = Trading(basket=Basket(auction=False))
    d = with_shares(account := Account(), rules, AAA=95)
    d.due()
    d.answer(0, 95, KEEP)
    (sale,) = of(d.quotes(0, AAA="100", BBB="100"), SubmitOrder)
    name = account.take(sale, d.state.now_ns)
    d.put(account.found(name, d.state.now_ns))
    d.reload = True
    d.put(ev.RunStarted(d.at(15), "live", "desk-1", "shelf", "e1", "code", "sip", rules))
    d.put(ev.ModelVerified(d.at(15), "v1", "d", promoted=True, feed="sip"), account.report(d.at(15, 1)))
    effects = d.quotes(15.1, AAA="100", BBB="100")
    assert of(effects, SubmitOrder) == []  # the cancel is not answered yet
    account.end(name)
    effects = d.put(ev.OrderCanceled(d.at(15, 8), name), account.report(d.at(15, 9)))
    (sale,) = of(effects + d.quotes(15.2, AAA="100", BBB="100"), SubmitOrder)
    effects = d.put(account.fill(account.take(sale, d.state.now_ns), 95, "100", d.state.now_ns))
    effects += d.put(account.report(d.at(15, 20))) + d.quotes(15.4, AAA="100", BBB="100")
    assert [order[:2] for order in orders(effects)] == [("BBB", 95)]


def test_an_exit_that_a_former_life_left_is_priced_again_and_no_alarm_says_that_it_hangs() -> None:
    d = with_shares(account := Account(), rules := Trading(basket=Basket(auction=False)), AAA=95)
    d.due()
    d.answer(0, KEEP, KEEP)
    (sale,) = of(d.quotes(0, AAA="100", BBB="100"), SubmitOrder)
    assert sale.limit_price is not None
    name = account.take(sale, d.state.now_ns)
    d.put(account.found(name, d.state.now_ns))
    d.reload = True
    d.put(ev.RunStarted(d.at(60), "live", "desk-1", "shelf", "e1", "code", "sip", rules))
    effects = d.put(ev.ModelVerified(d.at(60), "v1", "d", promoted=True, feed="sip"), account.report(d.at(60, 1)))
    effects += d.quotes(60.1, AAA="90", BBB="100")  # an hour later
    assert "exit_stuck" not in alarms(effects)
    assert canceling(effects) == [name]
    account.end(name)
    effects = d.put(ev.OrderCanceled(d.at(60, 8), name), account.report(d.at(60, 9)))
    (again,) = of(effects + d.quotes(60.2, AAA="90", BBB="100"), SubmitOrder)
    assert (again.symbol, again.quantity, again.side) == ("AAA", 95, -1)
    assert again.limit_price is None or again.limit_price < sale.limit_price


@pytest.mark.parametrize(("tuesday", "wednesday", "halt"), [(92.0, "91.5", False), (108.0, "101", True)])
def test_bars_of_missed_days_that_come_late_are_no_loss_of_today_and_hide_none(
    tuesday: float, wednesday: str, *, halt: bool
) -> None:
    """50 shares and 5,000 USD: on Wednesday 25 of 9,600 USD are lost, then 350 of 10,400; the limit is 3 %."""
    d = with_shares(Account(), Trading(risk=Risk(daily_loss_max=0.03)), AAA=50)
    start = d.state.book.equity
    d.put(ev.SessionEnded(TUESDAY.close_ns, TUESDAY.date))  # REST gave no bars in time
    d.begin(HALF_DAY)
    d.bars(TUESDAY, **dict.fromkeys(SYMBOLS, tuesday))
    book = d.state.book
    assert book.equity == book.session_start_equity == start + 50 * Decimal(tuesday - 100)
    for minute in (0, 1):
        d.quotes(minute, AAA=wednesday)
    assert (d.state.risk.halt is not None) is halt
    assert halt is ("daily_loss" in str(d.state.risk.halt))


# --- what a corporate action changes before its lines come ------------------------------------------------------------

BOOKS = {
    "shares of another": ({"NEW": (5, Decimal(200))}, "0", [line("MA", "AAA", -10), line("MA", "NEW", 5)]),
    "cash": ({}, "1050", [line("MA", "AAA", -10, "1050")]),
    "a spin-off": (
        {"AAA": (10, Decimal(100)), "NEW": (5, Decimal(20))}, "0", [line("SPIN", "NEW", 5)],
    ),
}  # fmt: skip


def announced(d: DailyDesk, report: ev.BrokerReported, kind: str, date: str) -> ev.BrokerReported:
    """The report with a line that announces such an action of AAA."""
    told = ev.Activity(
        f"{date} {kind} AAA", kind, "AAA", Decimal(0), None, Decimal(0), "announced", d.state.now_ns, ex_date=date
    )
    return replace(report, activities=(*report.activities, told))


def books_change(account: Account, action: str) -> None:
    positions, cash, _ = BOOKS[action]
    account.positions = {**{s: p for s, p in account.positions.items() if s != "AAA"}, **positions}
    account.cash += Decimal(cash)


@pytest.mark.parametrize("action", BOOKS)
@pytest.mark.parametrize("rules", [None, IGNORE, ADOPT])
@pytest.mark.parametrize("day", [TUESDAY, HALF_DAY], ids=["of today", "of tomorrow"])
def test_books_that_an_announced_action_changed_wait_for_its_lines(
    action: str, rules: Trading | None, day: Session
) -> None:
    d = with_shares(account := Account(), rules, AAA=10)
    books_change(account, action)
    kind = BOOKS[action][2][0].kind
    for minute in (-19, -18.9, -15, -10, 0, 60):
        d.put(announced(d, account.report(d.at(minute)), kind, day.date))
        assert (d.state.risk.halt, d.state.risk.reconciled, d.held) == (None, False, {"AAA": 10})
    assert [a.detail for a in of(d.effects, RaiseAlarm) if "accept-broker" in a.detail]
    account.cash -= Decimal(BOOKS[action][1])
    for told in BOOKS[action][2]:
        account.book(told)
    for minute in (61, 62):
        d.put(account.report(d.at(minute)))
    assert (d.state.risk.halt, d.state.risk.reconciled, d.state.broker.suspicion) == (None, True, None)
    assert d.held == {symbol: quantity for symbol, (quantity, _) in account.positions.items()}
    assert d.state.book.cash == account.cash


def test_what_no_announced_action_explains_halts_as_before() -> None:
    def judged(date: str, positions: dict[str, tuple[Quantity, Decimal]], kind: str = "MA") -> str:
        d = with_shares(account := Account(), AAA=10, BBB=10)
        account.positions = positions
        for minute in (-19, -18.9, -15, -10):
            d.put(announced(d, account.report(d.at(minute)), kind, date))
        return "" if d.state.risk.halt is None else d.state.risk.halt.reason

    a, b, new = (10, Decimal(100)), (10, Decimal(100)), (5, Decimal(200))
    assert judged(TUESDAY.date, {"BBB": b, "NEW": new}) == ""
    assert judged("2024-06-27", {"BBB": b, "NEW": new}) == "reconciliation"  # five nights before
    assert judged("2024-07-07", {"BBB": b, "NEW": new}) == "reconciliation"
    assert judged("soon", {"BBB": b, "NEW": new}) == "reconciliation"
    assert judged(TUESDAY.date, {"AAA": a}) == "reconciliation"  # BBB is not the one that is announced
    assert judged(TUESDAY.date, {"AAA": (4, Decimal(100)), "BBB": b}) == "reconciliation"  # a merger takes all
    assert judged(TUESDAY.date, {"AAA": a, "BBB": b, "NEW": new}) == "reconciliation"  # and nothing left
    assert judged(TUESDAY.date, {"AAA": a, "BBB": b, "NEW": new}, "SPIN") == ""
    assert judged(TUESDAY.date, {"BBB": b}, "SPIN") == "reconciliation"  # of a spin-off the old shares stay
    assert judged(TUESDAY.date, {"AAA": a, "BBB": (12, Decimal(100))}, "SPIN") == "reconciliation"


def test_shares_that_come_after_a_spin_off_s_line_are_not_taken_for_its_own() -> None:
    d = with_shares(account := Account(), AAA=10)
    books_change(account, "a spin-off")
    for minute in (-19, -18.9):
        d.put(announced(d, account.report(d.at(minute)), "SPIN", TUESDAY.date))
    account.book(BOOKS["a spin-off"][2][0])
    d.put(account.report(d.at(-15)))
    assert d.held == {"AAA": 10, "NEW": 5}
    account.positions["XYZ"] = (3, Decimal(10))
    for minute in (-14, -13.9, -10, -5):
        d.put(announced(d, account.report(d.at(minute)), "SPIN", TUESDAY.date))
    assert d.state.risk.halt is not None
    assert d.state.risk.halt.reason == "reconciliation"
