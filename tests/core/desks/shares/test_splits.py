"""Splits whose parts come in any order: no loss that only half of a split made, no decision on bars of other shares.

The account of `tests.support.core.account` is the truth; sums are computed by hand. A desk holds 50 AAA and 40 BBB,
bought at 100.00, and 1,000 USD.
"""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Literal

import pytest
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import AskBroker, AskPolicy, RaiseAlarm, SubmitOrder
from daemon.core.limits import Basket, Broker, Trading
from daemon.core.session import new_york_date
from strategies.kit.contract import Session
from strategies.kit.quantity import Quantity, exact
from tests.support.core.account import Account, line
from tests.support.core.daily_desk import KEEP, LAST_FRIDAY, SYMBOLS, DailyDesk, bar, orders
from tests.support.core.daily_live import ADOPT, IGNORE, buy, live, with_shares
from tests.support.core.desk import DAY, FRIDAY, HALF_DAY, MONDAY, TUESDAY, alarms, of
from tests.support.core.fractions_desk import FRACTIONS

RATIOS = [
    ("2", 100, "50"),
    ("1.5", 75, "66.6667"),
    ("4", 200, "25"),
    ("10", 500, "10"),
    ("0.1", 5, "1000"),
    ("0.5", 25, "200"),
]
WHOLE = Decimal(10_000)
WEDNESDAY_AFTER = Session("2024-07-03", TUESDAY.open_ns + DAY, TUESDAY.close_ns + DAY)
WEDNESDAY = Session("2024-06-26", LAST_FRIDAY.open_ns - 2 * DAY, LAST_FRIDAY.close_ns - 2 * DAY)  # before that Friday


def holding(account: Account) -> DailyDesk:
    """On Tuesday before the open."""
    return with_shares(account, AAA=50, BBB=40)


def reported(d: DailyDesk, account: Account, minute: float) -> list[str]:
    """The alarms of a report at that minute."""
    return alarms(d.put(account.report(d.at(minute))))


def adjusted(d: DailyDesk, symbol: str, close: float) -> None:
    """All bars that the desk knows of `symbol`, at another price."""
    d.put(ev.HistoryAdjusted(d.state.now_ns, symbol, (bar(symbol, LAST_FRIDAY, close), bar(symbol, MONDAY, close))))


def in_two_lines(account: Account, symbol: str, before: int, after: Quantity) -> None:
    """The ledger as Alpaca writes it: the old shares leave, the new ones come."""
    account.book(line("SPLIT", symbol, -before))
    account.book(line("SPLIT", symbol, after))


def still(d: DailyDesk) -> tuple[Decimal, Decimal, str, dict[str, Quantity]]:
    halt = d.state.risk.halt
    return d.state.marks["AAA"], d.state.book.equity, halt.reason if halt is not None else "", d.held


@pytest.mark.parametrize(("ratio", "after", "price"), RATIOS)
def test_a_split_that_the_ledger_reports_late_moves_no_mark_and_sells_nothing(
    ratio: str, after: int, price: str
) -> None:
    d = holding(account := Account())
    untouched = (Decimal(100), WHOLE, "", {"AAA": 50, "BBB": 40})
    account.positions["AAA"] = (after, Decimal(price))
    assert reported(d, account, -19) == ["split_awaited"]
    assert [reported(d, account, minute) for minute in (-18, -17)] == [[], []]
    effects = d.quotes(0.1, AAA=price) + d.quotes(0.2, AAA=price) + d.tick(1)
    effects += d.end(AAA=float(price), BBB=100.0)
    assert (of(effects, SubmitOrder), still(d), d.state.risk.reconciled) == ([], untouched, False)
    d.begin(HALF_DAY)
    assert reported(d, account, -19) == ["split_awaited"]  # each session once
    adjusted(d, "AAA", float(price))
    in_two_lines(account, "AAA", 50, after)
    assert reported(d, account, -18) == []
    mark, equity, halt, shares = still(d)
    assert (halt, shares, d.state.risk.reconciled) == ("", {"AAA": after, "BBB": 40}, True)
    assert (mark, equity) == (Decimal(100) / Decimal(ratio), WHOLE)
    d.due()
    assert d.state.ask is not None


@pytest.mark.parametrize("told", ["in two lines", "in one line", "by the positions alone"])
@pytest.mark.parametrize(
    ("goal", "filled", "after", "cash"), [(30, -20, 80, 2000), (0, -50, 50, 3500), (55, 5, 105, 750)]
)
@pytest.mark.parametrize("news", ["streamed", "looked up", ""])
def test_what_filled_in_the_auction_of_a_split_that_is_not_reported_yet_was_of_the_new_shares(
    goal: int, filled: int, after: int, cash: int, told: str, news: str
) -> None:
    """Two for one: 50 AAA at 100.00 are 100 at 50.00, and the order of the old shares' price fills at 50.00."""
    d = holding(account := Account())
    d.due()
    sent = of(d.answer(goal, KEEP, KEEP), SubmitOrder) or of(d.quotes(0, AAA="100"), SubmitOrder)
    assert [order.side * order.quantity for order in sent] == [filled]
    name = account.take(sent[0], d.state.now_ns)
    account.positions["AAA"] = (100, Decimal(50))
    fill, d.prompt = account.fill(name, abs(filled), "50", d.at(0, 1)), None
    effects = d.put(*{"streamed": (fill,), "looked up": (account.found(name, d.at(0, 1)),), "": ()}[news])
    assert (d.held, bool(of(effects, AskBroker))) == ({"AAA": 50, "BBB": 40}, bool(news))
    if told == "in two lines":
        in_two_lines(account, "AAA", 50, 100)
    elif told == "in one line":
        account.book(line("SPLIT", "AAA", 50))
    effects += d.put(account.report(d.at(0, 2)))
    if told == "by the positions alone":  # its lines come later
        in_two_lines(account, "AAA", 50, 100)
    effects += d.put(account.report(d.at(0, 14))) + d.quotes(1, AAA="50") + d.quotes(1.1, AAA="50")
    assert (still(d), d.state.book.cash) == ((Decimal(50), WHOLE, "", {"AAA": after, "BBB": 40}), Decimal(cash))
    assert (of(effects, SubmitOrder), d.state.orders, d.state.risk.reconciled) == ([], {}, True)


def test_what_filled_in_an_auction_far_below_the_mark_is_a_loss_where_no_split_explains_it() -> None:
    d = holding(account := Account())
    d.due()
    (order,) = of(d.answer(30, KEEP, KEEP), SubmitOrder)
    fill = account.fill(account.take(order, d.state.now_ns), 20, "50", d.at(0, 1))
    d.prompt = None
    d.put(fill)
    assert (d.held["AAA"], d.state.book.cash) == (50, Decimal(1000))
    d.put(account.report(d.at(0, 2)))
    assert (d.held["AAA"], d.state.book.cash, d.state.book.realized) == (30, Decimal(2000), Decimal(-1000))
    assert [halt.reason for halt in d.state.risk.halts] == ["daily_loss"]


@pytest.mark.parametrize(("existing", "next_one"), [(10, 10), (50, 50), (UNSET, 50)])
def test_without_a_line_or_a_report_a_refusal_says_what_a_split_left_to_leave(
    existing: int | UnsetType, next_one: int
) -> None:
    """One for five: 50 become 10 at 500.00, and then neither the line nor another report comes."""
    d = holding(account := Account())
    account.positions["AAA"] = (10, Decimal(500))
    report = account.report(d.at(1))
    unsaid = tuple(replace(position, available=None) for position in report.positions)
    assert alarms(d.put(replace(report, positions=unsaid))) == ["split_awaited"]
    d.prompt = None
    d.put(ev.FlattenRequested(d.at(2), "x", "ann"))
    calls = [order for order in of(d.tick(2, 20), SubmitOrder) if order.symbol == "AAA"]
    assert [(order.quantity, order.closing) for order in calls] == [(50, True)]
    d.put(ev.OrderRejected(d.at(2, 21), calls[0].client_order_id, "403 insufficient qty", existing=existing))
    later = [order for second in range(22, 200) for order in of(d.tick(2, second), SubmitOrder)]
    assert [(order.quantity, order.closing) for order in later if order.symbol == "AAA"][:1] == [(next_one, True)]
    if existing == 10:
        in_two_lines(account, "AAA", 50, 10)
        reported(d, account, 9)
        assert (d.held["AAA"], d.state.risk.reconciled) == (10, True)


def test_a_fraction_of_a_late_split_lies_beside_or_comes_as_cash() -> None:
    for quantity, cash in (("37.5", "0"), ("37", "33.33")):
        d = with_shares(account := Account(), AAA=25, BBB=40)
        report = account.report(d.at(-19))
        shares = (ev.BrokerPosition("AAA", Decimal(quantity), Decimal("66.6667")), report.positions[1])
        late = replace(report, positions=shares, cash=report.cash + Decimal(cash))
        assert alarms(d.put(late)) == ["split_awaited"]
        assert alarms(d.put(replace(late, time_ns=d.at(-18), asked_ns=d.at(-18)))) == []
        assert d.state.risk.halt is None


@pytest.mark.parametrize("rules", [None, IGNORE])
@pytest.mark.parametrize("lines", [("-50", "62.5"), ("12.5",)])
def test_the_fraction_of_a_late_split_takes_no_share_from_the_desk(
    rules: Trading | None, lines: tuple[str, ...]
) -> None:
    """Five for four: 50 become 62.5. The desk of whole shares has 62, and half a share lies beside."""
    d = with_shares(account := Account(), rules, AAA=50, BBB=40)
    account.positions["AAA"] = (exact("62.5"), Decimal(80))
    assert [reported(d, account, minute) for minute in (-19, -18)] == [["split_awaited"], []]
    for count in lines:
        account.book(line("SPLIT", "AAA", exact(count)))
    assert [reported(d, account, minute) for minute in (-17, -16, -15)] == [[], [], []]
    assert (d.held["AAA"], d.state.broker.beside_fractions, d.state.broker.foreign_held) == (
        62,
        {"AAA": exact("0.5")},
        {},
    )
    assert (d.state.risk.halt, d.state.risk.reconciled) == (None, True)


@pytest.mark.parametrize("rules", [None, ADOPT, IGNORE, FRACTIONS])
@pytest.mark.parametrize("end", ["line", "accepted", "closed"])
def test_cash_for_a_fraction_that_is_told_before_its_split_waits_for_it(rules: Trading | None, end: str) -> None:
    """One for four: 50 become 12.5 at 400.00, and the half share is paid out, 200 USD."""
    d = with_shares(account := Account(), rules, AAA=50, BBB=40)
    account.positions["AAA"] = (12, Decimal(400))
    account.book(line("CIL", "AAA", exact("-0.5"), "200"))
    assert [reported(d, account, minute) for minute in (-19, -18, -17)] == [["split_awaited"], [], []]
    assert still(d) == (Decimal(100), WHOLE, "", {"AAA": 50, "BBB": 40})
    if end == "accepted":
        d.put(ev.AcceptBrokerRequested(d.at(-16), "the split, by hand", "ann"))
    elif end == "closed":
        d.put(ev.CloseRequested(d.at(-16), "AAA", 0, "enough", "ann"))
    else:
        in_two_lines(account, "AAA", 50, exact("12.5"))
    assert [reported(d, account, minute) for minute in (-15, -14)] == [
        [{"accepted": "broker_accepted"}[end]] if end == "accepted" else [],
        [],
    ]
    if end != "line":
        in_two_lines(account, "AAA", 50, exact("12.5"))
        assert reported(d, account, -13) == []
    assert (d.held, d.state.book.cash, d.state.broker.beside_fractions) == ({"AAA": 12, "BBB": 40}, account.cash, {})
    assert (d.state.book.equity, d.state.basket.early_lieu, d.state.risk.reconciled) == (WHOLE, (), True)


@pytest.mark.parametrize("accepted", [False, True])
def test_a_split_that_changes_less_than_a_share_is_seen_by_the_cash_for_its_fraction(*, accepted: bool) -> None:
    """Three for two of 1.4 shares: 2.1, of which 0.1 are paid out, 6.66 USD."""
    d = with_shares(account := Account(), FRACTIONS, AAA=1, BBB=40)
    d.put(account.report(d.at(-19.5)))
    account.positions["AAA"] = (exact("1.4"), Decimal(100))
    account.cash -= 40
    d.put(ev.AcceptBrokerRequested(d.at(-19.4), "bought by hand", "ann"))
    reported(d, account, -19.3)
    assert d.held["AAA"] == exact("1.4")
    before = d.state.book.equity
    account.positions["AAA"] = (2, Decimal("66.67"))
    account.book(line("CIL", "AAA", exact("-0.1"), "6.66"))
    assert [reported(d, account, minute) for minute in (-19, -18, -17)] == [["split_awaited"], [], []]
    assert (d.held["AAA"], d.state.book.equity) == (exact("1.4"), before)
    if accepted:
        d.put(ev.AcceptBrokerRequested(d.at(-16.5), "the split, by hand", "ann"))
    account.book(line("SPLIT", "AAA", exact("0.7")))
    assert [reported(d, account, minute) for minute in (-16, -15)] == [["broker_accepted"] if accepted else [], []]
    assert (d.held["AAA"], d.state.book.cash, d.state.risk.reconciled) == (2, account.cash, True)
    assert abs(d.state.book.equity - before) < Decimal("0.01")


@pytest.mark.parametrize("rules", [None, FRACTIONS])
def test_cash_for_all_that_a_split_left_waits_for_its_line_too(rules: Trading | None) -> None:
    """One for two of a single share: half a share, which is paid out, 100 USD."""
    d = with_shares(account := Account(), rules, AAA=1, BBB=40)
    del account.positions["AAA"]
    account.book(line("CIL", "AAA", exact("-0.5"), "100"))
    assert [reported(d, account, minute) for minute in (-19, -18, -17)] == [["split_awaited"], [], []]
    assert (d.held, d.state.book.equity, d.state.risk.halts) == ({"AAA": 1, "BBB": 40}, WHOLE, ())
    in_two_lines(account, "AAA", 1, exact("0.5"))
    assert [reported(d, account, minute) for minute in (-16, -15)] == [[], []]
    assert (d.held, d.state.book.cash, d.state.book.equity) == ({"BBB": 40}, account.cash, WHOLE)
    assert (d.state.risk.halts, d.state.risk.reconciled) == ((), True)


def test_bars_that_show_a_split_before_positions_and_ledger_are_waited_for_over_sessions() -> None:
    d = holding(account := Account())
    adjusted(d, "AAA", 49.5)  # two for one, and a dividend of one percent
    d.due()
    assert d.state.ask is None
    effects = d.quotes(0.1, AAA="50") + d.quotes(0.2, AAA="50") + d.end(AAA=50.0, BBB=100.0)
    d.begin(HALF_DAY)
    reported(d, account, -19)
    effects += d.quotes(0.1, AAA="51") + d.quotes(0.2, AAA="51") + d.end(AAA=51.0, BBB=100.0)
    assert (of(effects, SubmitOrder), still(d)) == ([], (Decimal(100), WHOLE, "", {"AAA": 50, "BBB": 40}))
    account.positions["AAA"] = (100, Decimal(50))
    in_two_lines(account, "AAA", 50, 100)
    account.book(line("DIV", "AAA", 0, "50"))
    d.put(account.report(d.state.now_ns))
    assert still(d) == (Decimal(50), WHOLE + 50, "", {"AAA": 100, "BBB": 40})


@pytest.mark.parametrize(("ratio", "after", "price"), RATIOS)
def test_after_the_ledger_s_line_nothing_is_decided_until_the_bars_are_adjusted(
    ratio: str, after: int, price: str
) -> None:
    d = holding(account := Account())
    account.positions["AAA"] = (after, Decimal(price))
    in_two_lines(account, "AAA", 50, after)
    account.book(line("DIV", "AAA", 0, "25"))
    reported(d, account, -19)
    assert (d.held["AAA"], d.state.risk.reconciled) == (after, True)
    assert alarms(d.due()) == ["rebalance_refused"]
    adjusted(d, "AAA", 99.0)  # the dividend's part alone
    assert of(d.due(-14), AskPolicy) == []
    adjusted(d, "AAA", 99.0 / float(ratio))
    assert len(of(d.due(-13), AskPolicy)) == 1
    view = d.strategy.seen[-1]
    assert abs(view.prices[0] / d.strategy.known(d.state.strategy)["AAA"][-1].close - 1) < 0.02
    assert (d.state.basket.unadjusted, d.state.basket.splits) == ((), ())


def test_the_newest_bar_says_whether_the_bars_are_still_of_the_old_shares() -> None:
    d = holding(account := Account())
    closes = ((WEDNESDAY, 50.0), (LAST_FRIDAY, 50.0), (MONDAY, 100.0))  # it doubled on Monday
    d.put(ev.HistoryAdjusted(d.state.now_ns, "AAA", tuple(bar("AAA", day, close) for day, close in closes)))
    account.positions["AAA"] = (100, Decimal(50))
    in_two_lines(account, "AAA", 50, 100)
    reported(d, account, -19)
    assert d.state.basket.unadjusted == ("AAA",)


def test_a_price_that_a_split_would_explain_waits_for_the_broker_s_word_on_the_quantity() -> None:
    d = holding(account := Account())
    first = d.quotes(0.1, AAA="50", BBB="100") + d.quotes(0.2, AAA="50", BBB="100")
    assert (len(of(first, AskBroker)), still(d)[:3]) == (1, (Decimal(100), WHOLE, ""))
    account.positions["AAA"] = (100, Decimal(50))
    assert reported(d, account, 1) == ["split_awaited"]
    assert (orders(d.quotes(2, AAA="50") + d.quotes(3, AAA="50")), still(d)[:3]) == ([], (Decimal(100), WHOLE, ""))


def test_a_fall_of_shares_whose_quantity_agrees_is_a_loss() -> None:
    d = holding(account := Account())
    d.quotes(0.1, AAA="20", BBB="100")
    d.quotes(0.2, AAA="20", BBB="100")
    reported(d, account, 1)
    effects = d.quotes(1.1, AAA="20", BBB="100")
    halt = d.state.risk.halt
    assert halt is not None
    assert halt.reason == "daily_loss"  # 4,000 of 10,000 USD
    assert {symbol: count for symbol, count, _ in orders(effects)} == {"AAA": -50, "BBB": -40}


def test_a_leap_that_goes_back_is_forgotten() -> None:
    d = holding(Account())
    d.quotes(0.1, AAA="50")
    d.quotes(0.2, AAA="50")
    assert d.state.basket.leapt
    d.quotes(0.3, AAA="100")
    assert d.state.basket.leapt == {}


def test_shares_that_somebody_bought_are_no_split() -> None:
    d = holding(account := Account())
    account.positions["AAA"] = (100, Decimal("99.5"))
    account.cash -= 4950
    reported(d, account, -19)
    assert reported(d, account, -18) == ["reconciliation"]


@pytest.mark.parametrize(("held_now", "price", "sold"), [(75, "66.6667", 75), (50, "100", 50)])
@pytest.mark.parametrize("before_positions", [False, True])
def test_what_others_bought_over_an_awaited_split_is_not_sold_with_it(
    held_now: int, price: str, sold: int, *, before_positions: bool
) -> None:
    """Three for two: the bars show it, the positions do or not yet. A person buys 5, against the rule `halt`."""
    d = holding(account := Account())
    adjusted(d, "AAA", 66.6667)
    assert d.state.basket.splits == ("AAA",)
    if before_positions:
        account.by_hand("hand", "AAA", +1, 5, d.at(-22))
        d.put(account.fill("hand", 5, price, d.at(-21)))
        account.positions["AAA"] = (held_now + 5, Decimal(price))
    else:
        account.positions["AAA"] = (held_now, Decimal(price))
        reported(d, account, -22)
        account.by_hand("hand", "AAA", +1, 5, d.at(-21))
        d.put(account.fill("hand", 5, price, d.at(-20)))
    for minute in (-19, -18, -17):
        reported(d, account, minute)
    effects = d.put(ev.CloseRequested(d.at(-16), "AAA", 0, "out", "ann"), account.report(d.at(-15)))
    effects += d.put(account.report(d.at(0, 1))) + d.quotes(0.1, AAA=price) + d.quotes(0.2, AAA=price) + d.tick(1)
    assert [(order.symbol, order.side * order.quantity) for order in of(effects, SubmitOrder)] == [("AAA", -sold)]


OTHERS = [
    # rule, held before, bought the evening before and since, ratio, account after it, how it is told, the desk's part
    ("halt", 0, "14.8", 0, "4", "87.2", "one line", 28),  # 7 and 14.8 became 28 and 59.2
    ("halt", 0, "14.8", 0, "4", "87.2", "two lines", 28),
    ("halt", 0, "14.8", 0, "4", "87.2", "bars", 28),
    ("halt", 0, "3", 0, "1.5", "15", "bars", 10),  # 10.5, half a share is paid for
    ("halt", 0, "14.8", 0, "0.5", "10.9", "", 3),  # 3.5
    ("halt", 0, "14.8", 0, "0.1", "2", "one line", 0),  # 0.7 of 2.18, paid for
    ("halt", 0, "14.8", 5, "4", "92.2", "bars", 28),
    ("ignore", 5, "0", 0, "0.5", "6", "", 3),
    ("ignore", 5, "0", 0, "0.1", "1.2", "bars", 0),
    ("ignore", 5, "3", 0, "4", "60", "one line", 28),  # at the close 7 and 5, in the evening 3 more
    ("ignore", 5, "3", 0, "4", "60", "two lines", 28),
    ("ignore", 5, "3", 0, "1.1", "16.5", "one line", 7),  # 7.7: one new share for ten
    ("ignore", 15, "14", 5, "0.5", "23", "", 3),  # 7 and 29 became 18
    ("ignore", 0, "14.8", 5, "0.1", "7.18", "", 0),
    ("ignore", 0, "3", 0, "0.5", "5", "one line", 3),
]


@pytest.mark.parametrize(("rule", "before", "evening", "since", "ratio", "after", "told", "most"), OTHERS)
def test_no_exit_over_a_split_sells_what_others_hold_or_bought_around_it(
    rule: Literal["halt", "ignore"],
    before: int,
    evening: str,
    since: int,
    ratio: str,
    after: str,
    told: str,
    most: int,
) -> None:
    """The desk holds 7; what is 7 x the ratio is its own, and the rest is a person's, told or not."""
    account = Account()
    if before:
        account.positions["AAA"] = (before, Decimal(100))
    d = with_shares(account, Trading(broker=Broker(foreign_orders=rule)), AAA=7, BBB=40)
    if bought := exact(evening):
        traded_ns = MONDAY.close_ns + 7200 * 10**9
        fill = account.fill(account.by_hand("hand", "AAA", +1, bought, traded_ns), bought, "100", traded_ns)
        d.put(replace(fill, time_ns=d.at(-20)), account.report(d.at(-19)))
    price = str((Decimal(100) / Decimal(ratio)).quantize(Decimal("0.0001")))
    if told == "bars":
        adjusted(d, "AAA", float(price))
    old_quantity = account.positions["AAA"][0]
    account.positions["AAA"] = (exact(Decimal(after) - since), Decimal(price))
    if since:
        d.put(account.fill(account.by_hand("later", "AAA", +1, since, d.at(-18.5)), since, price, d.at(-18.5)))
    changes = {"one line": [exact(after) - since - old_quantity], "two lines": [-old_quantity, exact(after) - since]}
    for change in changes.get(told, []):
        account.book(replace(line("SPLIT", "AAA", change), time_ns=TUESDAY.open_ns))
    for minute in (-18, -17.5, -17):
        reported(d, account, minute)
    effects = d.put(ev.CloseRequested(d.at(-16), "AAA", 0, "out", "ann"), account.report(d.at(-15)))
    for minute in (0.05, 1, 2):
        effects += d.quotes(minute, AAA=price, BBB="100") + d.put(account.report(d.at(minute + 0.1)))
    ordered = {order.client_order_id: order.quantity for order in of(effects, SubmitOrder) if order.symbol == "AAA"}
    assert sum(ordered.values()) <= most + (Decimal(7) * Decimal(ratio)) % 1


@pytest.mark.parametrize(("kind", "parts"), [("ACATS", (50,)), ("ACATS", (20, 30)), ("JNLS", (50,))])
def test_shares_that_a_person_moved_into_the_account_are_no_split_and_no_exit_sells_them(
    kind: str, parts: tuple[int, ...]
) -> None:
    """As many as the desk has, of which the broker knows no cost: 100 for the 5,000 USD that its own 50 cost."""
    d = with_shares(account := Account(), IGNORE, AAA=50, BBB=40)
    account.positions["AAA"] = (100, Decimal(50))
    for part in parts:
        account.book(line(kind, "AAA", part))
    for minute in (-19, -18):
        reported(d, account, minute)
    assert (d.held["AAA"], d.state.broker.foreign_held, d.state.risk.reconciled) == (50, {"AAA": 50}, True)
    d.put(ev.CloseRequested(d.at(1), "AAA", 0, "out", "ann"), account.report(d.at(1, 1)))
    effects = d.quotes(1.5, AAA="100")
    assert orders(d.effects + effects)[-1][:2] == ("AAA", -50)


def test_a_split_of_what_a_person_moved_in_too_is_waited_for() -> None:
    d = with_shares(account := Account(), IGNORE, AAA=50, BBB=40)
    account.positions["AAA"] = (70, Decimal(100))
    account.book(line("ACATS", "AAA", 20))
    for minute in (-19, -18):
        reported(d, account, minute)
    account.positions["AAA"] = (140, Decimal(50))
    assert reported(d, account, -17) == ["split_awaited"]


def test_a_split_to_come_is_not_adopted_as_other_shares() -> None:
    d = with_shares(account := Account(), ADOPT, AAA=50, BBB=40)
    account.positions["AAA"] = (100, Decimal(50))
    for minute in (-19, -18):
        reported(d, account, minute)
    assert d.held["AAA"] == 50


@pytest.mark.parametrize(("rules", "bbb_shares"), [(ADOPT, 45), (IGNORE, 40)])
def test_a_split_to_come_is_taken_over_beside_no_other_difference(rules: Trading, bbb_shares: int) -> None:
    """Somebody bought five BBB while the line of AAA's split was awaited."""
    d = with_shares(account := Account(), rules, AAA=50, BBB=40)
    account.positions["AAA"] = (100, Decimal(50))
    account.positions["BBB"] = (45, Decimal(100))
    account.cash -= 500
    alarm_names = [reported(d, account, minute) for minute in (-19, -18, -17)]
    assert (alarm_names, d.held) == ([["split_awaited"], ["position_changed"], []], {"AAA": 50, "BBB": bbb_shares})
    equity = d.state.book.equity
    in_two_lines(account, "AAA", 50, 100)
    assert [reported(d, account, minute) for minute in (-16, -15)] == [[], []]
    assert (d.held, d.state.book.equity, d.state.risk.reconciled) == ({"AAA": 100, "BBB": bbb_shares}, equity, True)


@pytest.mark.parametrize("rules", [ADOPT, IGNORE])
def test_a_fraction_whose_split_is_to_come_lies_beside_no_other_difference(rules: Trading) -> None:
    """Half a share becomes a whole one: the half that came is the desk's."""
    fractions = Trading(basket=Basket(fractions="on"), broker=rules.broker)
    d = with_shares(account := Account(), fractions, AAA=0.5, BBB=40)
    account.positions["AAA"] = (1, Decimal(50))
    account.positions["BBB"] = (45, Decimal(100))
    account.cash -= 500
    for minute in (-19, -18, -17):
        reported(d, account, minute)
    account.book(line("SPLIT", "AAA", exact("0.5")))
    reported(d, account, -16)
    assert (d.held["AAA"], d.state.broker.beside_fractions) == (1, {})


def test_another_difference_beside_a_split_is_judged() -> None:
    d = holding(account := Account())
    account.positions["AAA"] = (100, Decimal(50))
    account.positions["BBB"] = (41, Decimal(100))
    reported(d, account, -19)
    assert reported(d, account, -18) == ["reconciliation"]


def test_a_flatten_leaves_shares_whose_split_is_awaited_and_ends_the_wait() -> None:
    d = holding(account := Account())
    adjusted(d, "AAA", 50.0)
    d.put(ev.FlattenRequested(d.at(-10), "out", "me"))
    sales = of(d.tick(1), SubmitOrder)
    assert [(order.symbol, order.quantity) for order in sales] == [("AAA", 50), ("BBB", 40)]
    for order in sales:
        d.put(account.fill(account.take(order, d.state.now_ns), order.quantity, "100", d.state.now_ns))
    d.put(account.report(d.at(2)))
    assert (d.held, d.state.basket.splits, d.state.basket.sure) == ({}, (), ())


@pytest.mark.parametrize("close_minute", [-25, 3])
@pytest.mark.parametrize(("quantity", "sale_quantity"), [(0, 100), (20, 40)])
def test_what_is_closed_while_its_split_is_awaited_leaves_whole_and_sells_nothing_else(
    close_minute: int, quantity: int, sale_quantity: int
) -> None:
    """The positions show 100 for 50 at the same cost: they are sold at 50, which each cost."""
    d = holding(account := Account())
    account.positions["AAA"] = (100, Decimal(50))
    effects = d.put(ev.CloseRequested(d.at(-25), "AAA", quantity, "enough", "ann")) if close_minute < 0 else []
    reported(d, account, -19)
    effects += d.quotes(0.1, BBB="100") + d.tick(1)
    if close_minute > 0:
        effects += d.put(ev.CloseRequested(d.at(close_minute), "AAA", quantity, "enough", "ann"))
    (sale,) = of(effects, SubmitOrder)
    assert (sale.symbol, sale.quantity) == ("AAA", sale_quantity)
    d.put(
        account.fill(account.take(sale, d.state.now_ns), sale_quantity, "50", d.state.now_ns), account.report(d.at(4))
    )
    in_two_lines(account, "AAA", 50, 100)
    reported(d, account, 5)
    rest = {"AAA": 100 - sale_quantity} if sale_quantity < 100 else {}
    assert (d.held, d.state.book.cash) == ({**rest, "BBB": 40}, Decimal(1000 + 50 * sale_quantity))
    assert (d.state.book.realized, d.state.risk.halt, d.state.risk.reconciled) == (Decimal(0), None, True)


@pytest.mark.parametrize(
    ("close", "still_waits"),
    [
        (44.0, False),  # shares of a company that was spun off, 2.27 to 1
        (50.0, True),
        (20.4, True),  # five for one, and a dividend of two percent
        (66.6667, True),  # three for two
        (200.0, True),  # one for two
    ],
)
def test_a_history_that_changes_by_no_split_s_ratio_is_believed_after_a_session(
    close: float, still_waits: bool
) -> None:
    d = holding(account := Account())
    waits = []
    adjusted(d, "AAA", close)
    waits.append(d.state.basket.splits)
    reported(d, account, -10)
    d.end(AAA=close, BBB=100.0)
    waits.append(d.state.basket.splits)
    assert waits == [("AAA",), ("AAA",) if still_waits else ()]


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("told", ["announced", "booked"])
def test_bars_that_a_spin_off_changed_at_a_split_s_ratio_are_waited_for_one_session_at_most(
    told: str, *, is_first: bool
) -> None:
    """A fifth of the worth is spun off, which changes the bars as five for four would."""
    d = holding(account := Account())
    if not is_first:
        adjusted(d, "AAA", 80.0)
    report = account.report(d.at(-20))
    if told == "booked":
        account.positions["OFF"] = (25, Decimal(80))
        account.book(line("SPIN", "OFF", 25))
        report = account.report(d.at(-20))
    else:
        day = new_york_date(d.state.now_ns).isoformat()
        spin_off = ev.Activity("1", "SPIN", "AAA", Decimal(0), None, Decimal(0), "announced", 0, ex_date=day)
        report = replace(report, activities=(spin_off,))
    d.put(report)
    if is_first:
        adjusted(d, "AAA", 80.0)
    reported(d, account, -10)
    d.end(AAA=80.0, BBB=100.0)
    assert (d.state.basket.splits, d.state.basket.sure, d.state.risk.halt) == ((), (), None)


@pytest.mark.parametrize("says", ["-0.5", "0"])
@pytest.mark.parametrize("late", [True, False])
def test_cash_for_a_fraction_takes_none_of_what_was_bought_since(says: str, *, late: bool) -> None:
    """51 become 25.5, and 10.3 are bought. Half a share is paid for, whether the line says so or the positions."""
    d = with_shares(account := Account(), FRACTIONS, AAA=51)
    account.positions["AAA"] = (exact("25.5"), Decimal(200))
    in_two_lines(account, "AAA", 51, exact("25.5"))
    adjusted(d, "AAA", 200.0)
    reported(d, account, -19)
    d.due()
    d.answer(35.8, KEEP, KEEP)
    for minute in (0, 1):
        for order in of(d.quotes(minute, AAA="200"), SubmitOrder):
            d.put(account.fill(account.take(order, d.state.now_ns), order.quantity, "200", d.state.now_ns))
    reported(d, account, 3)
    assert d.held == {"AAA": exact("35.8")}
    account.book(replace(line("CIL", "AAA", exact(says), "100"), time_ns=d.state.now_ns))
    if late:
        reported(d, account, 4)
    account.positions["AAA"] = (exact("35.3"), Decimal(200))
    assert [reported(d, account, minute) for minute in (5, 6)] == [[], []]
    assert (d.held, d.state.broker.beside_fractions) == ({"AAA": exact("35.3")}, {})
    assert (d.state.book.cash, d.state.book.equity, d.state.risk.reconciled) == (account.cash, WHOLE, True)


@pytest.mark.parametrize("says", ["-0.5", "0"])
def test_cash_for_a_fraction_that_neither_line_nor_positions_ever_had_takes_none_of_the_rest(says: str) -> None:
    d = with_shares(account := Account(), FRACTIONS, AAA=51)
    account.positions["AAA"] = (25, Decimal(204))
    in_two_lines(account, "AAA", 51, 25)
    account.book(replace(line("CIL", "AAA", exact(says), "100"), time_ns=d.state.now_ns))
    assert [reported(d, account, minute) for minute in (-19, -18)] == [[], []]
    d.put(account.report(d.at(0) + 2 * DAY), account.report(d.at(1) + 2 * DAY))
    assert (d.held, d.state.broker.beside_fractions) == ({"AAA": 25}, {})
    assert (d.state.book.cash, d.state.risk.reconciled) == (account.cash, True)


@pytest.mark.parametrize("is_first", [True, False])
def test_a_split_whose_parts_come_days_late_is_no_loss_beside_another_share_s_spin_off(*, is_first: bool) -> None:
    """AAA splits five for four; a spin-off of BBB is announced and told. The broker shows the split two days later."""
    d = holding(account := Account())
    if is_first:
        adjusted(d, "AAA", 80.0)
    spin_off = ev.Activity("1", "SPIN", "BBB", Decimal(0), None, Decimal(0), "announced", 0, ex_date=TUESDAY.date)
    d.put(replace(account.report(d.at(-20)), activities=(spin_off,)))
    account.positions["OFF"] = (10, Decimal(0))
    account.book(line("SPIN", "OFF", 10))
    reported(d, account, -19)
    if not is_first:
        adjusted(d, "AAA", 80.0)
    for session in (TUESDAY, HALF_DAY):
        if session is HALF_DAY:
            d.begin(session)
        reported(d, account, -10)
        assert not of(d.quotes(1, AAA="80", BBB="100") + d.quotes(2, AAA="80", BBB="100"), SubmitOrder)
        reported(d, account, 3)
        assert not of(d.quotes(4, AAA="80", BBB="100"), SubmitOrder)
        assert still(d) == (Decimal(100), WHOLE, "", {"AAA": 50, "BBB": 40, "OFF": 10})
        d.end(AAA=80.0, BBB=100.0)
    d.begin(FRIDAY)
    account.positions["AAA"] = (exact("62.5"), Decimal(80))
    in_two_lines(account, "AAA", 50, exact("62.5"))
    reported(d, account, -10)
    assert still(d) == (Decimal(80), WHOLE - 40, "", {"AAA": 62, "BBB": 40, "OFF": 10})  # half a share lies beside


def test_bars_that_no_line_explains_are_waited_for_some_nights_and_not_for_ever() -> None:
    """A dividend of a fifth of the price, as five for four would be; the broker has all shares that the book has."""
    d = holding(account := Account())
    adjusted(d, "AAA", 80.0)
    waits, first = [], d.session
    for night in range(6):
        day = (date.fromisoformat(first.date) + timedelta(days=night)).isoformat()
        if night:
            d.begin(Session(day, first.open_ns + night * DAY, first.close_ns + night * DAY))
        reported(d, account, -10)
        d.end(AAA=80.0, BBB=100.0)
        waits.append(d.state.basket.splits)
    assert waits == [("AAA",)] * 5 + [()]


@pytest.mark.parametrize("first", ["line", "bars"])
@pytest.mark.parametrize(("close", "paid"), [(50.0, "2500"), (70.0, "1500"), (75.0, "1250")])
def test_a_special_dividend_that_is_paid_before_its_ex_date_is_no_split_no_gain_and_no_loss(
    close: float, paid: str, first: str
) -> None:
    """Half of the price, as a split of two for one, 30 %, and a quarter, as four for three; 50 shares."""
    d = holding(account := Account())
    cash = replace(line("DIV", "AAA", 0, paid), ex_date=WEDNESDAY_AFTER.date, time_ns=TUESDAY.open_ns)
    if first == "line":
        account.book(cash)
    reported(d, account, -19)
    d.quotes(0.1, AAA="100", BBB="100")
    d.put(account.report(d.at(1)))
    d.end(AAA=100.0, BBB=100.0)
    d.begin(WEDNESDAY_AFTER)
    days = (LAST_FRIDAY, MONDAY, TUESDAY)
    if first == "line":
        reported(d, account, -20)
    d.put(ev.HistoryAdjusted(d.state.now_ns, "AAA", tuple(bar("AAA", day, close) for day in days)))
    assert bool(d.state.basket.splits) == (first == "bars")
    if first == "bars":
        account.book(cash)
    effects = d.put(account.report(d.at(-19)))
    d.due()
    assert (d.state.ask is not None, d.state.basket.splits) == (True, ())
    for second in (6, 12, 18):
        effects += d.quotes(second / 60, AAA=str(close), BBB="100")
    assert (of(effects, SubmitOrder), still(d)) == ([], (Decimal(str(close)), WHOLE, "", {"AAA": 50, "BBB": 40}))
    book = d.state.book
    assert (book.session_base or book.session_start_equity, book.peak, book.cash) == (WHOLE, WHOLE, account.cash)
    assert (book.realized, d.state.risk.reconciled) == (Decimal(paid), True)
    d.quotes(1, AAA=str(close * 0.9), BBB="85")  # a true loss of a tenth and more
    d.quotes(1.1, AAA=str(close * 0.9), BBB="85")
    d.quotes(1.2, AAA=str(close * 0.9), BBB="70")
    d.quotes(1.3, AAA=str(close * 0.9), BBB="70")
    d.put(account.report(d.at(2)))
    d.quotes(2.1, BBB="70")
    d.quotes(2.2, BBB="70")
    assert [halt.reason for halt in d.state.risk.halts] == ["daily_loss"]


@pytest.mark.parametrize("since", [1, 4])
@pytest.mark.parametrize(("close", "paid"), [(50.0, "2500"), (80.0, "1000")])
def test_a_special_dividend_that_is_paid_while_its_fall_is_waited_for_as_a_split_is_no_gain_and_no_loss(
    close: float, paid: str, since: int
) -> None:
    """Half of the price and a fifth, as two for one and five for four, paid nights after the ex-date; 50 shares.

    The price moves by 5 % between the ex-date and the payment, which is a gain.
    """
    d = holding(account := Account())
    reported(d, account, -20)
    adjusted(d, "AAA", close)
    assert "AAA" in d.state.basket.splits
    d.end(AAA=close * 1.05, BBB=100.0)
    for night in range(1, since + 1):
        day = (date.fromisoformat(TUESDAY.date) + timedelta(days=night)).isoformat()
        d.begin(Session(day, TUESDAY.open_ns + night * DAY, TUESDAY.close_ns + night * DAY))
        if night == since:
            account.book(replace(line("DIV", "AAA", 0, paid), ex_date=TUESDAY.date, time_ns=d.state.now_ns))
        reported(d, account, -10)
        if night < since:
            d.end(AAA=close * 1.05, BBB=100.0)
    book = d.state.book
    assert still(d) == (Decimal(str(close)), WHOLE, "", {"AAA": 50, "BBB": 40})
    assert not d.state.basket.splits
    assert (book.session_base or book.session_start_equity, book.peak, book.cash) == (WHOLE, WHOLE, account.cash)
    for second in (6, 12):
        d.quotes(second / 60, AAA=str(close * 1.05), BBB="100")
    assert d.state.book.equity == WHOLE + Decimal(str(close * 0.05 * 50))


@pytest.mark.parametrize(("close", "paid"), [(50.0, "2500"), (77.0, "1150")])
def test_a_special_dividend_that_is_paid_weeks_after_its_fall_is_no_gain_and_no_loss(close: float, paid: str) -> None:
    """Half of the price, as two for one, and 23 %, at no split's ratio; announced on the ex-date; 50 shares."""
    d = holding(account := Account())
    reported(d, account, -20)
    adjusted(d, "AAA", close)
    d.due()
    assert (d.state.basket.splits, d.state.ask) == (("AAA",), None)
    amount = Decimal(100) - Decimal(str(close))
    pays = ev.Activity("a", "DIV", "AAA", Decimal(0), amount, Decimal(0), "announced", d.at(-19), ex_date=TUESDAY.date)
    account.book(pays)
    reported(d, account, -19)
    d.due()
    assert (d.state.basket.splits, d.state.ask is not None) == ((), True)
    effects = [effect for second in (6, 12) for effect in d.quotes(second / 60, AAA=str(close), BBB="100")]
    book = d.state.book
    assert (of(effects, SubmitOrder), still(d)[2:]) == ([], ("", {"AAA": 50, "BBB": 40}))
    assert (book.equity, book.session_base, book.peak) == (WHOLE - Decimal(paid),) * 3
    d.end(AAA=close, BBB=100.0)
    later = Session("2024-07-22", TUESDAY.open_ns + 20 * DAY, TUESDAY.close_ns + 20 * DAY)
    d.begin(later)
    account.book(replace(line("DIV", "AAA", 0, paid), ex_date=TUESDAY.date, time_ns=d.state.now_ns))
    reported(d, account, -10)
    book = d.state.book
    assert (book.equity, book.session_base, book.peak, book.cash) == (WHOLE, WHOLE, WHOLE, account.cash)
    assert d.state.risk.halts == ()


@pytest.mark.parametrize("ex_date", ["", "2024-06-14", TUESDAY.date, "2024-07-20"])
def test_a_large_dividend_whose_ex_date_is_past_far_or_unknown_is_income(ex_date: str) -> None:
    d = holding(account := Account())
    account.book(replace(line("DIV", "AAA", 0, "1500"), ex_date=ex_date, time_ns=TUESDAY.open_ns))
    reported(d, account, -19)
    book = d.state.book
    with_cash = WHOLE + 1500
    assert (book.equity, book.session_base or book.session_start_equity, book.peak) == (with_cash, WHOLE, with_cash)
    assert d.state.marks["AAA"] == Decimal(100)


def test_what_was_wanted_before_a_split_is_no_limit_for_the_shares_after_it() -> None:
    d = holding(account := Account())
    d.due()
    d.answer(55, -1.0, -1.0)
    (buy,) = of(d.quotes(0, AAA="100"), SubmitOrder)
    name = account.take(buy, d.state.now_ns)
    account.positions["AAA"] = (100, Decimal(50))
    in_two_lines(account, "AAA", 50, 100)
    d.put(account.report(d.at(1)))
    effects = d.put(account.fill(name, 5, "50", d.at(1, 30))) + d.tick(2) + d.quotes(3, AAA="50")
    assert (of(effects, SubmitOrder), d.held["AAA"]) == ([], 105)


@pytest.mark.parametrize("rules", [None, ADOPT, IGNORE])
@pytest.mark.parametrize("is_reported", [True, False])
def test_who_accepts_the_broker_s_shares_while_a_split_is_awaited_gains_and_loses_nothing(
    rules: Trading | None, *, is_reported: bool
) -> None:
    d = with_shares(account := Account(), rules, AAA=50, BBB=40)
    account.positions["AAA"] = (100, Decimal(50))
    if is_reported:
        reported(d, account, -19)
    d.put(ev.AcceptBrokerRequested(d.at(-18), "the split, by hand", "ann"))
    reported(d, account, -17)
    book = d.state.book
    assert (d.held, d.state.marks["AAA"], book.equity) == ({"AAA": 100, "BBB": 40}, Decimal(50), WHOLE)
    assert (d.state.basket.to_come, d.state.basket.apart) == ((), ())
    assert (book.peak, book.max_drawdown, book.transfers, book.realized) == (WHOLE, 0.0, Decimal(0), Decimal(0))
    assert [halt.reason for halt in d.state.risk.halts] == ["accept_broker"]


@pytest.mark.parametrize("minute", [-14, 24 * 60 * 9])
def test_the_line_of_a_split_that_a_person_accepted_is_booked_no_more(minute: float) -> None:
    d = holding(account := Account())
    account.positions["AAA"] = (100, Decimal(50))
    reported(d, account, -19)
    d.put(ev.AcceptBrokerRequested(d.at(-18), "the split, by hand", "ann"))
    reported(d, account, -17)
    d.put(ev.ResumeRequested(d.at(-16), "accepted", "ann"))
    in_two_lines(account, "AAA", 50, 100)
    assert reported(d, account, minute) == []
    assert (d.held, d.state.book.equity, d.state.risk.halts) == ({"AAA": 100, "BBB": 40}, WHOLE, ())
    assert d.state.risk.reconciled


def test_a_later_split_of_the_same_share_is_booked() -> None:
    d = holding(account := Account())
    account.positions["AAA"] = (100, Decimal(50))
    d.put(ev.AcceptBrokerRequested(d.at(-18), "the split, by hand", "ann"))
    reported(d, account, -17)
    account.positions["AAA"] = (200, Decimal(25))
    later = line("SPLIT", "AAA", 100)
    account.book(replace(later, time_ns=later.time_ns + 30 * DAY))
    reported(d, account, 24 * 60 * 30)
    assert d.held["AAA"] == 200


@pytest.mark.parametrize("told_later", [0, 1])
def test_a_second_split_within_days_of_one_that_was_taken_over_is_booked(told_later: int) -> None:
    """Two for one, taken over on Tuesday and told by two lines; then five for one on the next day."""
    d = holding(account := Account())
    account.positions["AAA"] = (100, Decimal(50))
    d.put(ev.AcceptBrokerRequested(d.at(-18), "the split, by hand", "ann"))
    reported(d, account, -17)
    d.put(ev.ResumeRequested(d.at(-16), "accepted", "ann"))
    for days, before, after in ((told_later + 1, 50, 100), (told_later + 2, 100, 500)):
        for quantity in (-before, after):
            told = line("SPLIT", "AAA", quantity)
            account.book(replace(told, time_ns=told.time_ns + days * DAY, id=f"{days} {told.id}"))
        account.positions["AAA"] = (after, 5000 / Decimal(after))
        reported(d, account, 24 * 60 * (days - 1))
        assert (d.held["AAA"], d.state.book.equity, d.state.risk.halts) == (after, WHOLE, ())
    assert d.state.risk.reconciled


def test_what_somebody_bought_is_no_split_for_who_accepts_it() -> None:
    """With others' shares beside, their number alone says nothing: the desk keeps its own."""
    d = with_shares(account := Account(), IGNORE, AAA=50, BBB=40)
    account.by_hand("hand", "AAA", +1, 10, d.at(-25))
    d.put(account.fill("hand", 10, "100", d.at(-24)), account.report(d.at(-23)))
    account.positions["AAA"] = (120, Decimal(100))
    account.cash -= 6000
    d.put(ev.AcceptBrokerRequested(d.at(-18), "bought by hand", "ann"))
    reported(d, account, -17)
    assert (d.held["AAA"], d.state.broker.foreign_held) == (50, {"AAA": 70})


@pytest.mark.parametrize("accepted", [False, True])
def test_the_fraction_that_an_awaited_split_leaves_lies_beside_what_leaves_or_is_accepted(*, accepted: bool) -> None:
    """Three for two: 25 become 37.5, of which a desk of whole shares has 37."""
    d = with_shares(account := Account(), IGNORE if accepted else None, AAA=25, BBB=40)
    account.positions["AAA"] = (exact("37.5"), Decimal("66.6667"))
    reported(d, account, -19)
    if accepted:
        d.put(ev.AcceptBrokerRequested(d.at(-18), "the split, by hand", "ann"))
        reported(d, account, -17)
    else:
        d.put(ev.CloseRequested(d.at(-18), "AAA", 0, "enough", "ann"))
        reported(d, account, -17)
        (sale,) = of(d.quotes(0.1, BBB="100") + d.tick(1), SubmitOrder)
        assert sale.quantity == 37
    beside = d.state.broker.foreign_held if accepted else d.state.broker.beside_fractions
    assert (d.held["AAA"], beside) == (37, {"AAA": exact("0.5")})
    assert d.state.risk.reconciled


def beside_a_person(account: Account) -> DailyDesk:
    """The desk holds 50 AAA and 40 BBB, a person 10 AAA since before."""
    account.cash += 1000
    d = live(account, IGNORE)
    account.by_hand("hand", "AAA", +1, 10, d.at(-19))
    account.fill("hand", 10, "100", d.at(-18))
    d.put(account.report(d.at(-17)))
    buy(d, account, AAA=50, BBB=40)
    assert d.state.broker.foreign_held == {"AAA": 10}
    return d


@pytest.mark.parametrize("accepted", [False, True])
@pytest.mark.parametrize(
    ("is_adjusted", "desk_shares", "other_shares"),
    [
        (True, 100, 20),
        (False, 50, 70),  # a person may have bought as many
    ],
)
def test_a_split_that_the_bars_tell_too_is_by_the_positions_each_s_own(
    is_adjusted: bool, desk_shares: int, other_shares: int, *, accepted: bool
) -> None:
    d = beside_a_person(account := Account())
    if is_adjusted:
        adjusted(d, "AAA", 50.0)
    account.positions["AAA"] = (120, Decimal(50))
    if accepted:
        d.put(ev.AcceptBrokerRequested(d.at(-18), "the split, by hand", "ann"))
        reported(d, account, -17)
        assert (d.held["AAA"], d.state.broker.foreign_held) == (desk_shares, {"AAA": other_shares})
        assert (d.state.book.equity, [halt.reason for halt in d.state.risk.halts]) == (WHOLE, ["accept_broker"])
        return
    d.put(ev.CloseRequested(d.at(-18), "AAA", 0, "enough", "ann"))
    reported(d, account, -17)
    (sale,) = of(d.quotes(0.1, BBB="100") + d.tick(1), SubmitOrder)
    assert sale.quantity == desk_shares
    if is_adjusted:
        d.put(account.fill(account.take(sale, d.state.now_ns), desk_shares, "50", d.state.now_ns))
        in_two_lines(account, "AAA", 60, 120)
        assert [reported(d, account, minute) for minute in (2, 3)] == [[], []]
        assert (d.held, d.state.broker.foreign_held) == ({"BBB": 40}, {"AAA": 20})
        assert (d.state.book.realized, d.state.risk.halt, d.state.risk.reconciled) == (Decimal(0), None, True)


def test_a_reverse_split_that_several_ratios_explain_names_them_and_what_settles_it_and_takes_no_new_risk() -> None:
    """60 at 100 became 1 at 4,000: 1 for 40, and half a share, 2,000, comes as cash. 1 for 31 leaves 1 as well."""
    d = with_shares(account := Account(), AAA=60)
    account.positions["AAA"] = (1, Decimal(4000))
    (alarm,) = of(d.put(account.report(d.at(-19))), RaiseAlarm)
    beginning = "AAA: broker 1, book 60, no line in the ledger; it may be 1 for 40, 1 for 39, "
    assert (alarm.name, alarm.detail[: len(beginning)]) == ("split_awaited", beginning)
    assert alarm.detail.endswith("if it does not, rltraderctl accept-broker takes what the broker has")
    effects = d.due() + d.quotes(1, **dict.fromkeys(SYMBOLS, "100")) + d.put(account.report(d.at(2)))
    assert (of(effects, SubmitOrder), of(effects, AskPolicy), d.state.risk.reconciled) == ([], [], False)
    d.put(ev.AcceptBrokerRequested(d.at(3), "1 for 40", "ann"), account.report(d.at(4)))
    assert (d.held, d.state.marks["AAA"], d.state.book.equity) == ({"AAA": 1}, Decimal(4000), Decimal(8000))
    account.book(line("CIL", "AAA", 0, "2000"))
    d.put(ev.ResumeRequested(d.at(5), "settled", "ann"), account.report(d.at(6)), account.report(d.at(7)))
    d.quotes(8, AAA="4000")
    assert (d.state.book.equity, d.state.risk.halt, d.state.risk.reconciled) == (WHOLE, None, True)


@pytest.mark.parametrize("rule", [None, ADOPT])
@pytest.mark.parametrize("lines", [(2,), (-50, 52)])
def test_a_small_stock_dividend_that_was_taken_over_with_the_positions_is_not_booked_by_its_line(
    rule: Trading | None, lines: tuple[int, ...]
) -> None:
    """One for twenty-five: below any ratio that the positions show. A person accepts it, or `adopt` takes it in."""
    d = with_shares(account := Account(), rule, AAA=50, BBB=40)
    account.positions["AAA"] = (52, Decimal("96.1538"))
    for minute in (-19, -18, -17):
        reported(d, account, minute)
    if rule is None:
        d.put(ev.AcceptBrokerRequested(d.at(-16), "a stock dividend", "ann"))
        assert reported(d, account, -15) == ["broker_accepted"]
    for count in lines:
        account.book(line("SPLIT", "AAA", count))
    assert [reported(d, account, minute) for minute in (-14, -13)] == [[], []]
    assert (d.held, d.state.risk.reconciled, d.state.basket.leavers) == ({"AAA": 52, "BBB": 40}, True, ())


@pytest.mark.parametrize("bought", [0, 3])
@pytest.mark.parametrize("lines", [(2,), (-50, 52)])
def test_a_small_stock_dividend_of_a_desk_alone_is_its_own_once_its_line_tells_it(
    lines: tuple[int, ...], bought: int
) -> None:
    """Until then its two shares count as others', as the three that a person bought that morning do."""
    d = with_shares(account := Account(), IGNORE, AAA=50, BBB=40)
    d.put(account.report(d.at(389)), account.report(d.at(391)))
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.begin(WEDNESDAY_AFTER)
    account.positions["AAA"] = (52 + bought, Decimal("96.1538"))
    for minute in (-19, -18, -17):
        reported(d, account, minute)
    assert (d.held["AAA"], d.state.broker.foreign_held) == (50, {"AAA": 2 + bought})
    for count in lines:
        account.book(replace(line("SPLIT", "AAA", count), time_ns=WEDNESDAY_AFTER.open_ns))
    for minute in (-16, -15, -14):
        reported(d, account, minute)
    others = {"AAA": bought} if bought else {}
    assert (d.held, d.state.broker.foreign_held, d.state.risk.reconciled) == ({"AAA": 52, "BBB": 40}, others, True)


@pytest.mark.parametrize("rules", [None, ADOPT, IGNORE])
@pytest.mark.parametrize("lines", [(2,), (-50, 52)])
def test_a_stock_dividend_that_is_announced_is_the_desk_s_before_its_line(
    rules: Trading | None, lines: tuple[int, ...]
) -> None:
    """Its two shares wait, as a split's do. It is announced to a desk whose positions differ, by the next report."""
    d = with_shares(account := Account(), rules, AAA=50, BBB=40)
    account.positions["AAA"] = (52, Decimal("96.1538"))
    reported(d, account, -19)
    told = replace(line("SPLIT", "AAA"), id=f"{TUESDAY.date} SPLIT AAA", status="announced")
    account.lines.append(replace(told, ex_date=TUESDAY.date, time_ns=d.at(-19)))
    assert reported(d, account, -18.98) == ["split_awaited"]
    effects = d.put(account.report(d.at(-18))) + d.quotes(0.1, AAA="96.1538") + d.quotes(0.2, AAA="96.1538") + d.tick(1)
    assert (of(effects, SubmitOrder), still(d)) == ([], (Decimal(100), WHOLE, "", {"AAA": 50, "BBB": 40}))
    for count in lines:
        account.book(replace(line("SPLIT", "AAA", count), time_ns=TUESDAY.open_ns))
    assert [reported(d, account, minute) for minute in (2, 3)] == [[], []]
    assert (d.held, d.state.broker.foreign_held, d.state.risk.reconciled) == ({"AAA": 52, "BBB": 40}, {}, True)
    assert (d.state.book.equity, d.state.basket.splits, d.state.risk.halts) == (WHOLE, (), ())


@pytest.mark.parametrize("rules", [None, ADOPT])
@pytest.mark.parametrize("kinds", [("NC", "NC"), ("SPIN", "SPIN"), ("NC", "SPIN")])
def test_actions_of_two_companies_in_one_night_whose_positions_come_first_are_the_desks(
    kinds: tuple[str, str], rules: Trading | None
) -> None:
    """What the account has beyond the book is what the lines bring: nobody else's shares."""
    d = with_shares(account := Account(), rules, AAA=50, BBB=40)
    for kind, symbol, count in zip(kinds, ("AAA", "BBB"), (50, 40), strict=True):
        if kind == "NC":
            account.lines.append(line(kind, symbol, -count))
            del account.positions[symbol]
        account.positions[f"{symbol}X"] = (count, Decimal(100))
        account.lines.append(line(kind, f"{symbol}X", count))
    lines, account.lines = account.lines, []
    reported(d, account, -19)
    account.lines = lines
    assert "owner_unknown" not in reported(d, account, -18.9)
    assert reported(d, account, -18) == []
    assert (d.held, d.state.risk.reconciled) == ({s: count for s, (count, _) in account.positions.items()}, True)


@pytest.mark.parametrize("rules", [None, ADOPT, IGNORE])
@pytest.mark.parametrize(
    "kinds", [("NC", "NC"), ("NC", "SPIN"), ("SPIN", "NC"), ("SPIN", "SPIN"), ("MA", "SPIN"), ("MA", "MA")]
)
def test_actions_of_two_companies_in_one_night_are_the_desks_though_their_lines_come_apart(
    kinds: tuple[str, str], rules: Trading | None
) -> None:
    """Spin-offs and mergers are announced. Both companies' shares are there before any line."""
    d = with_shares(account := Account(), rules, AAA=50, BBB=40)
    lines: list[tuple[ev.Activity, ...]] = []
    for kind, symbol, count in zip(kinds, ("AAA", "BBB"), (50, 40), strict=True):
        comes, leaves = line(kind, f"{symbol}X", 2 * count if kind == "MA" else count), line(kind, symbol, -count)
        account.positions[f"{symbol}X"] = (exact(comes.quantity), Decimal(50))
        lines.append((comes,) if kind == "SPIN" else (leaves, comes))
        if kind != "SPIN":
            del account.positions[symbol]
        if kind != "NC":
            told = replace(line(kind, symbol), id=f"{TUESDAY.date} {kind} {symbol}", status="announced")
            account.lines.append(replace(told, ex_date=TUESDAY.date, time_ns=d.at(-19)))
    seen = reported(d, account, -19)
    for minute, some in zip((-18.95, -18.9), lines, strict=True):
        account.lines += some
        seen += reported(d, account, minute)
    seen += reported(d, account, -18.6)
    assert (d.held, d.state.risk.reconciled) == ({s: count for s, (count, _) in account.positions.items()}, True)
    assert ("owner_unknown" in seen, d.state.broker.foreign_held, d.state.risk.halts) == (False, {}, ())


@pytest.mark.parametrize("first", ["positions", "lines"])
def test_shares_that_a_split_leaves_nothing_of_are_sold_for_its_cash_whatever_else_is_split(first: str) -> None:
    """One for two hundred of 50: a quarter of a share at 20,000 USD, paid in cash. BBB is split two for one."""
    d = with_shares(account := Account(), AAA=50, BBB=40)

    def split() -> None:
        account.positions = {"BBB": (80, Decimal(50))}

    if first == "positions":
        split()
        reported(d, account, -19)
    account.lines = [line("SPLIT", "AAA", -50), line("SPLIT", "BBB", 40)]
    account.book(line("CIL", "AAA", 0, "5000"))
    reported(d, account, -18.9)
    split()
    for minute in (-18, -17):
        reported(d, account, minute)
    book = d.state.book
    assert (d.held, book.cash, book.realized, d.state.basket.leavers) == ({"BBB": 80}, account.cash, Decimal(0), ())
    assert d.state.risk.reconciled


def test_an_exit_that_waits_for_whose_shares_are_missing_says_so() -> None:
    """One for ten of 7 and a person's 5: 1.2 are left, of which nobody knows whose they are before the line."""
    account = Account()
    account.positions["AAA"] = (5, Decimal(100))
    d = with_shares(account, IGNORE, AAA=7, BBB=40)
    account.positions["AAA"] = (exact("1.2"), Decimal(1000))
    reported(d, account, -18)
    d.put(ev.CloseRequested(d.at(-16), "AAA", 0, "out", "ann"), account.report(d.at(-15)))
    told = [it.detail for it in of(d.quotes(0.1, AAA="1000", BBB="100"), RaiseAlarm) if it.name == "exit_held_up"]
    assert told == [
        "AAA: 7 to leave; the broker has fewer than desk and others should have, and whose are missing is not known yet"
    ]
