"""Corporate actions in a daily desk's shares: equity stands still, and a fraction is never held.

60 AAA and 10 BBB bought at 100.00 of 10,000 USD; sums are computed by hand.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.book import session_loss
from daemon.core.effects import RaiseAlarm
from daemon.core.limits import Basket, Broker, Trading
from daemon.core.risk.splits import NIGHTS_MAX
from daemon.core.state import Leaver
from tests.support.core.account import Account, line
from tests.support.core.daily_desk import KEEP, DailyDesk, orders
from tests.support.core.daily_live import with_shares
from tests.support.core.desk import DAY, TUESDAY, alarms, canceling, of


def held_over_night(mode: str = "replay") -> DailyDesk:
    """Tuesday before the open, 60 AAA and 10 BBB held."""
    d = DailyDesk(mode=mode).fund().holds(AAA=60, BBB=10)
    d.begin(TUESDAY)
    return d


def report_lines(d: DailyDesk, *lines: ev.Activity) -> list[str]:
    """The broker's report with these lines and the positions that they leave; the alarms it raises."""
    cash = d.state.book.cash + sum((activity.amount for activity in lines), Decimal(0))
    shares = {symbol: Decimal(quantity) for symbol, quantity in d.held.items()}
    for activity in lines:
        shares[activity.symbol] = shares.get(activity.symbol, Decimal(0)) + activity.quantity
    positions = tuple(ev.BrokerPosition(symbol, count, Decimal(1)) for symbol, count in shares.items() if count)
    now = d.state.now_ns
    d.state = replace(d.state, broker=replace(d.state.broker, began_ns=1, account="A"))
    report = ev.BrokerReported(now, now, "A", cash, "", positions, (), (), (), lines)
    alarm_names = alarms(d.put(report))
    assert d.state.broker.suspicion is None, d.state.broker.suspicion
    return alarm_names


def fraction(kind: str, symbol: str, quantity: str, amount: str = "0", price: str = "") -> ev.Activity:
    activity = line(kind, symbol, 0, amount)
    worth = Decimal(price) if price else None
    return replace(activity, id=f"{activity.id} {quantity}", quantity=Decimal(quantity), price=worth)


@pytest.mark.parametrize(("change", "after", "mark"), [(60, 120, "50"), (120, 180, ""), (-54, 6, "1000")])
def test_a_split_changes_quantity_and_mark_by_the_same_ratio(change: int, after: int, mark: str) -> None:
    d = held_over_night()
    assert report_lines(d, line("SPLIT", "AAA", change)) == []
    position = d.state.book.positions["AAA"]
    assert (position.quantity, position.cost, d.state.book.equity) == (after, Decimal(6000), Decimal(10000))
    assert d.state.marks["AAA"] == Decimal(mark or "33.33333333333333333333333333")


@pytest.mark.parametrize("lines", [(("AAA", -60), ("AAA", 120)), (("AAA", 120), ("AAA", -60))])
def test_a_split_told_as_shares_that_leave_and_shares_that_come_is_the_same(lines: tuple[tuple[str, int], ...]) -> None:
    d = held_over_night()
    assert report_lines(d, *(line("SPLIT", symbol, count) for symbol, count in lines)) == []
    assert (d.held, d.state.book.equity) == ({"AAA": 120, "BBB": 10}, Decimal(10000))
    assert round(d.state.marks["AAA"], 12) == 50
    assert d.state.book.positions["AAA"].cost == Decimal(6000)


def test_a_split_s_fraction_is_not_held_and_comes_as_cash() -> None:
    d = DailyDesk().fund().holds(AAA=5)
    d.begin(TUESDAY)
    report_lines(d, fraction("SPLIT", "AAA", "2.5"))
    # 5 x 100 USD are 7.5 at 66.67: seven are held, and the broker's half of a share halts nothing
    assert (d.held, round(d.state.book.equity, 2)) == ({"AAA": 7}, Decimal("9966.67"))
    report_lines(d, fraction("CIL", "AAA", "0", "33.33"))
    assert (round(d.state.book.equity, 2), d.state.book.realized) == (Decimal("10000.00"), Decimal("33.33"))


@pytest.mark.parametrize("quantity", ["-0.5", "0"])  # of the cash's line, where the broker says how much it is for
def test_with_fractions_cash_in_lieu_sells_the_fraction_that_is_held(quantity: str) -> None:
    d = DailyDesk(Trading(basket=Basket(fractions="on"))).fund().holds(AAA=5)
    d.begin(TUESDAY)
    report_lines(d, fraction("SPLIT", "AAA", "2.5"))
    assert d.held == {"AAA": Decimal("7.5")}
    cash_line = fraction("CIL", "AAA", quantity, "33.33")
    positions = [ev.BrokerPosition("AAA", Decimal(7), Decimal(1))]
    now, cash = d.state.now_ns, d.state.book.cash + Decimal("33.33")
    d.put(ev.BrokerReported(now, now, "A", cash, "", tuple(positions), (), (), (), (cash_line,)))
    position = d.state.book.positions["AAA"]
    assert (position.quantity, position.cost, d.state.broker.suspicion) == (7, Decimal("466.6667"), None)
    assert (d.state.book.cash, d.state.book.realized) == (cash, Decimal("-0.0033"))  # 33.33 for 500 x 0.5 / 7.5
    assert round(d.state.book.equity, 2) == Decimal("10000.00")


@pytest.mark.parametrize("lines", [("-60", "7.5"), ("7.5", "-60")])
def test_a_reverse_split_in_two_lines_is_marked_by_its_ratio_and_its_fraction_comes_as_cash(
    lines: tuple[str, str],
) -> None:
    d = held_over_night()
    assert (
        report_lines(d, *(fraction("SPLIT", "AAA", count) for count in lines)) == []
    )  # eight old shares are a new one
    assert (d.held, d.state.marks["AAA"], d.state.book.equity) == ({"AAA": 7, "BBB": 10}, Decimal(800), Decimal(9600))
    report_lines(d, line("CIL", "AAA", 0, "400"))
    assert d.state.book.equity == Decimal(10000)


@pytest.mark.parametrize("lines", [("-10", "0.5"), ("0.5", "-10")])
def test_a_reverse_split_in_two_lines_that_leaves_less_than_a_share_ends_the_position(lines: tuple[str, str]) -> None:
    d = held_over_night()
    assert report_lines(d, line("CIL", "BBB", 0, "1000"), *(fraction("SPLIT", "BBB", count) for count in lines)) == []
    assert (d.held, d.state.basket.leavers) == ({"AAA": 60}, ())
    assert (d.state.book.equity, d.state.book.realized) == (Decimal(10000), Decimal(0))


def test_a_fraction_of_other_shares_takes_the_old_ones_out() -> None:
    d = held_over_night()
    assert report_lines(d, line("MA", "BBB", -10), fraction("MA", "NEW", "0.9"), line("CIL", "NEW", 0, "1000")) == []
    assert (d.held, d.state.book.equity, d.state.book.realized) == ({"AAA": 60}, Decimal(10000), Decimal(0))


@pytest.mark.parametrize("order", [(0, 1, 2, 3), (0, 3, 1, 2), (2, 3, 0, 1), (3, 2, 1, 0)])
def test_two_splits_of_one_morning_are_kept_apart(order: tuple[int, ...]) -> None:
    d = held_over_night()
    lines = [line("SPLIT", "AAA", -60), line("SPLIT", "AAA", 120), line("SPLIT", "BBB", -10), line("SPLIT", "BBB", 60)]
    assert report_lines(d, *(lines[place] for place in order)) == []
    assert (d.held, d.state.basket.leavers) == ({"AAA": 120, "BBB": 60}, ())
    assert (d.state.marks["AAA"], round(d.state.marks["BBB"], 6)) == (Decimal(50), Decimal("16.666667"))
    assert (d.state.book.positions["AAA"].cost, d.state.book.positions["BBB"].cost) == (Decimal(6000), Decimal(1000))


def test_a_split_told_as_one_line_is_no_other_symbol_s() -> None:
    d = held_over_night()
    leavers = (Leaver("SPLIT", "BBB", 10),)  # what comes for these is still to be reported
    d.state = replace(d.state, basket=replace(d.state.basket, leavers=leavers))
    report_lines(d, line("SPLIT", "AAA", 60))
    assert (d.held, d.state.marks["AAA"], d.state.basket.leavers) == ({"AAA": 120, "BBB": 10}, Decimal(50), leavers)


def test_a_reverse_split_that_leaves_less_than_a_share_ends_the_position() -> None:
    d = DailyDesk().fund().holds(AAA=5)
    d.begin(TUESDAY)
    report_lines(d, fraction("SPLIT", "AAA", "-4.5"))
    assert (d.held, d.state.book.cash, d.state.book.realized) == ({}, Decimal(9500), Decimal(-500))
    report_lines(d, fraction("CIL", "AAA", "0", "500"))
    assert (d.state.book.cash, d.state.book.realized, d.state.stats.trades) == (Decimal(10000), Decimal(0), 1)


def test_a_split_of_what_is_not_held_or_has_no_price_changes_no_money() -> None:
    d = held_over_night()
    d.state = replace(d.state, marks={"BBB": Decimal(100)})
    report_lines(d, line("SPLIT", "AAA", 60))
    assert ("AAA" in d.state.marks, d.held["AAA"]) == (False, 120)
    before = d.state.book
    d.state = replace(d.state, broker=replace(d.state.broker, began_ns=1, account="A"))
    d.put(
        ev.BrokerReported(
            d.state.now_ns, d.state.now_ns, "A", before.cash, "",
            tuple(ev.BrokerPosition(s, Decimal(q), Decimal(1)) for s, q in d.held.items()), (), (), (),
            (line("SPLIT", "CCC", 5),),
        )
    )  # fmt: skip
    assert d.state.book == before


def test_a_split_ends_what_was_under_way_in_the_symbol_and_its_old_quote_counts_no_more() -> None:
    d = held_over_night()
    d.quotes(-20, AAA="100")
    d.due()
    d.answer(0, 5, KEEP)
    report = ev.BrokerReported(
        d.at(-10), d.at(-10), "A", d.state.book.cash, "", (ev.BrokerPosition("AAA", Decimal(120), Decimal(50)),), (),
        (), (), (line("SPLIT", "AAA", 60),),
    )  # fmt: skip
    d.state = replace(d.state, broker=replace(d.state.broker, began_ns=1, account="A"))
    effects = d.put(report)
    assert canceling(effects) == ["e1-shelf-2-0-0"]  # and not BBB's
    assert ([work.symbol for work in d.state.works.values()], "AAA" in d.state.quotes) == (["BBB"], False)


def test_a_new_name_takes_over_shares_cost_and_value() -> None:
    d = held_over_night()
    assert report_lines(d, line("NC", "AAA", -60), line("NC", "NEW", 60)) == ["shares_renamed"]
    book = d.state.book
    assert (d.held, book.positions["NEW"].cost, d.state.marks["NEW"]) == (
        {"BBB": 10, "NEW": 60}, Decimal(6000), Decimal(100),
    )  # fmt: skip
    assert (book.equity, book.realized, d.state.basket.leavers) == (Decimal(10000), Decimal(0), ())
    assert (book.positions["NEW"].right, book.positions["NEW"].multiplier) == (0, 1)  # shares, no call


def test_a_new_name_whose_shares_come_before_the_old_ones_leave_is_the_same() -> None:
    d = held_over_night()
    assert report_lines(d, line("NC", "NEW", 60), line("NC", "AAA", -60)) == ["shares_renamed"]
    assert (d.held, d.state.marks["NEW"], d.state.book.equity) == ({"BBB": 10, "NEW": 60}, Decimal(100), Decimal(10000))


def test_a_flatten_leaves_also_what_the_desk_does_not_trade_any_more() -> None:
    """They are its own: who commands a flatten, or a panic that fails, wants nothing held."""
    d = held_over_night()
    report_lines(d, line("NC", "AAA", -60), line("NC", "NEW", 60))
    d.put(ev.FlattenRequested(d.at(1), "x", "ann"))
    assert sorted(orders(d.effects)[-2:]) == [("BBB", -10, None), ("NEW", -60, None)]


def test_a_merger_for_cash_and_shares_of_what_is_held_pays_for_a_part_and_the_rest_joins() -> None:
    d = held_over_night()
    assert report_lines(d, line("MA", "BBB", -10, "50"), line("MA", "AAA", 9)) == ["shares_renamed"]
    book = d.state.book  # of 1,000 USD of BBB 50 were paid, and the rest became nine shares at 100
    assert (d.held, book.realized, book.equity) == ({"AAA": 69}, Decimal(0), Decimal(9950))
    assert book.positions["AAA"].cost == 6950


@pytest.mark.parametrize(
    "lines",
    [
        (line("MA", "AAA", -60, "3600"), line("MA", "NEW", 30)),
        (line("MA", "AAA", 0, "3600"), line("MA", "AAA", -60), line("MA", "NEW", 30)),
        (line("MA", "NEW", 30), line("MA", "AAA", -60), line("MA", "AAA", 0, "3600")),
    ],
)
def test_a_merger_for_cash_and_shares_that_have_no_price_yet_is_no_loss_and_no_gain(
    lines: tuple[ev.Activity, ...],
) -> None:
    d = held_over_night()
    assert report_lines(d, *lines) == ["shares_renamed"]
    book = d.state.book  # 6,000 USD of AAA became 3,600 in cash and thirty shares worth the other 2,400
    assert (d.held, d.state.marks["NEW"], book.equity) == ({"BBB": 10, "NEW": 30}, Decimal(80), Decimal(10000))
    assert (book.realized, book.positions["NEW"].cost) == (Decimal(0), Decimal(2400))


def test_of_two_mergers_the_one_for_cash_alone_leaves_no_shares() -> None:
    d = held_over_night()
    report_lines(d, line("MA", "BBB", -10, "400"), line("MA", "AAA", -60), line("MA", "NEW", 30))
    book = d.state.book
    assert (d.held, book.realized, book.equity) == ({"NEW": 30}, Decimal(-600), Decimal(9400))


def test_a_merger_for_cash_sells_the_shares_for_it() -> None:
    d = held_over_night()
    assert report_lines(d, line("MA", "BBB", -10, "1150")) == []
    book = d.state.book
    assert (d.held, book.cash, book.realized, d.state.stats.wins) == (
        {"AAA": 60}, Decimal(4150), Decimal(150), 1,
    )  # fmt: skip


def test_a_part_that_is_paid_for_takes_its_part_of_the_cost() -> None:
    d = held_over_night()
    report_lines(d, line("REO", "AAA", -20, "1900"))
    position = d.state.book.positions["AAA"]
    assert (position.quantity, position.cost, d.state.book.realized) == (40, Decimal(4000), Decimal(-100))


def test_a_merger_for_shares_joins_what_is_held_of_the_other_symbol() -> None:
    d = held_over_night()
    assert report_lines(d, line("MA", "BBB", -10), line("MA", "AAA", 9)) == ["shares_renamed"]
    book = d.state.book
    assert (d.held, book.positions["AAA"].cost, d.state.marks["AAA"]) == ({"AAA": 69}, Decimal(7000), Decimal(100))


def test_a_spin_off_costs_nothing_and_is_valued_at_its_line_s_price() -> None:
    d = held_over_night()
    assert report_lines(d, fraction("SPIN", "OFF", "6", price="20")) == ["shares_renamed"]
    assert (d.state.book.positions["OFF"].cost, d.state.book.equity) == (Decimal(0), Decimal(10120))
    report_lines(d, fraction("SPIN", "ODD", "2"))
    assert (d.state.marks["ODD"], d.state.book.equity) == (Decimal(0), Decimal(10120))


def test_shares_that_are_quoted_before_their_parent_s_fall_is_believed_are_no_peak() -> None:
    """60 AAA at 100 became 60 at 70 and 30 OFF at 60: 10,000 USD before and after, and never a fall from more."""
    d = with_shares(account := Account(), AAA=60, BBB=10)
    account.positions["OFF"] = (30, Decimal(0))
    account.book(line("SPIN", "OFF", 30))  # of which neither line nor book has a price
    d.put(account.report(d.at(-15)))
    for minute in (0.5, 1.0, 1.5, 2.5):  # a report between the third and the fourth
        d.quotes(minute, AAA="70", BBB="100", OFF="60")
        if minute == 1.5:
            assert d.state.marks["AAA"] == Decimal(100)
            d.put(account.report(d.at(2)))
    book = d.state.book
    assert (d.state.marks["AAA"], d.state.marks["OFF"], book.equity) == (Decimal(70), Decimal(60), Decimal(10000))
    assert (book.peak, book.max_drawdown, d.state.risk.halt) == (Decimal(10000), 0.0, None)
    d.quotes(3.5, AAA="80", BBB="100", OFF="60")  # what is gained afterwards is a peak again
    d.quotes(4.5, AAA="80", BBB="100", OFF="60")
    assert d.state.book.peak == Decimal(10600)


def test_cash_of_a_corporate_action_without_shares_is_income() -> None:
    d = held_over_night()
    assert report_lines(d, line("REO", "AAA", 0, "12.50")) == []
    assert (d.state.book.cash, d.state.book.realized) == (Decimal("3012.50"), Decimal("12.50"))


def test_shares_that_leave_for_nothing_stay_until_the_comparison_judges_it() -> None:
    d = held_over_night()
    now = d.state.now_ns
    d.state = replace(d.state, broker=replace(d.state.broker, began_ns=1, account="A"))
    positions = (ev.BrokerPosition("AAA", Decimal(60), Decimal(100)),)
    d.put(ev.BrokerReported(now, now, "A", d.state.book.cash, "", positions, (), (), (), (line("REO", "BBB", -10),)))
    assert (d.held["BBB"], d.state.risk.reconciled) == (10, False)
    assert d.state.broker.suspicion is not None
    assert d.state.broker.suspicion.differences == ("BBB: broker 0, book 10",)


def test_shares_of_a_corporate_action_that_are_not_held_change_nothing() -> None:
    d = held_over_night()
    before = d.state.book
    d.state = replace(d.state, broker=replace(d.state.broker, began_ns=1, account="A"))
    now, there = d.state.now_ns, tuple(ev.BrokerPosition(s, Decimal(q), Decimal(1)) for s, q in d.held.items())
    d.put(ev.BrokerReported(now, now, "A", before.cash, "", there, (), (), (), (line("NC", "OLD", -7),)))
    assert (d.state.book, d.state.basket.leavers) == (before, ())


def test_several_new_names_of_one_report_find_their_own_shares() -> None:
    d = held_over_night()
    report_lines(d, line("NC", "AAA", -60), line("NC", "BBB", -10), line("NC", "BB2", 10), line("NC", "AA2", 60))
    assert {s: p.cost for s, p in d.state.book.positions.items()} == {"BB2": Decimal(1000), "AA2": Decimal(6000)}


Told = tuple[int, str, str, int]  # day of July, kind, symbol, shares
RENAMED: tuple[Told, ...] = ((1, "NC", "AAA", -60), (1, "NC", "XYZ", 60))
DOUBLED: tuple[Told, ...] = ((1, "SPLIT", "AAA", -60), (1, "SPLIT", "AAA", 120))


def told_of(some: tuple[Told, ...], later: int = 0) -> tuple[ev.Activity, ...]:
    """The ledger's lines, each at midnight of its day, `later` days after what it says."""
    lines = (replace(line(kind, symbol, count), time_ns=day_ns(day + later)) for day, kind, symbol, count in some)
    return tuple(replace(it, id=f"{it.time_ns} {it.id}") for it in lines)


def day_ns(day: int) -> int:
    return TUESDAY.open_ns - 34_200 * 1_000_000_000 + (day - 2) * DAY


@pytest.mark.parametrize("days_between", [0, 2])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("first", "then", "after"),
    [
        (RENAMED, ((1, "SPLIT", "XYZ", -60), (1, "SPLIT", "XYZ", 120)), {"XYZ": 120}),
        (RENAMED, ((1, "SPLIT", "XYZ", 60),), {"XYZ": 120}),
        (DOUBLED, ((1, "NC", "AAA", -120), (1, "NC", "XYZ", 120)), {"XYZ": 120}),
        (((1, "SPIN", "XYZ", 30),), ((1, "SPLIT", "XYZ", -30), (1, "SPLIT", "XYZ", 60)), {"AAA": 60, "XYZ": 60}),
        (((1, "MA", "AAA", -60), (1, "MA", "XYZ", 30)), ((1, "NC", "XYZ", -30), (1, "NC", "UVW", 30)), {"UVW": 30}),
    ],
)
def test_what_one_line_brings_a_later_one_of_the_same_report_takes(
    first: tuple[Told, ...], then: tuple[Told, ...], after: dict[str, int], days_between: int, backwards: bool
) -> None:
    """As after days without a desk; or a new name and a split of one night."""
    d = held_over_night("live")
    lines = (*told_of(first), *told_of(then, days_between))
    report_lines(d, *(lines[::-1] if backwards else lines))
    assert d.held == {"BBB": 10, **after}
    assert (d.state.book.equity, d.state.risk.halt, d.state.basket.leavers) == (Decimal(10000), None, ())


@pytest.mark.parametrize("backwards", [False, True])
def test_two_splits_and_two_new_names_that_one_report_tells_of_two_days(backwards: bool) -> None:
    for first, then, after in (
        (DOUBLED, ((1, "SPLIT", "AAA", -120), (1, "SPLIT", "AAA", 360)), {"AAA": 360}),
        (RENAMED, ((1, "NC", "XYZ", -60), (1, "NC", "UVW", 60)), {"UVW": 60}),
    ):
        d = held_over_night("live")
        lines = (*told_of(first), *told_of(then, 2))
        report_lines(d, *(lines[::-1] if backwards else lines))
        assert (d.held, d.state.book.equity) == ({"BBB": 10, **after}, Decimal(10000))


def test_a_merger_that_two_reports_tell_is_no_loss_and_halts_nothing() -> None:
    d = with_shares(account := Account(), AAA=60, BBB=10)
    del account.positions["AAA"]
    account.book(line("MA", "AAA", -60, "3600"))  # of 6,000 USD; the other 2,400 come as shares
    alarm_names = alarms(d.put(account.report(d.at(-19)), account.report(d.at(-18)), account.report(d.at(1))))
    book = d.state.book
    assert (alarm_names, d.state.risk.halt, d.state.risk.reconciled) == (["shares_renamed"], None, False)
    assert (book.cash, book.equity, session_loss(book)) == (account.cash, Decimal(10000), 0.0)
    account.positions["NEW"] = (30, Decimal(80))
    d.put(account.report(d.at(2)), account.report(d.at(3)))  # its line is still to come
    assert (d.state.risk.halt, d.state.book.equity) == (None, Decimal(10000))
    account.book(line("MA", "NEW", 30))
    d.put(account.report(d.at(4)))
    book = d.state.book
    assert (d.held, d.state.marks["NEW"], book.equity) == ({"BBB": 10, "NEW": 30}, Decimal(80), Decimal(10000))
    assert (book.realized, book.positions["NEW"].cost) == (Decimal(0), Decimal(2400))
    assert (d.state.risk.halt, d.state.risk.reconciled) == (None, True)


@pytest.mark.parametrize("kind", ["MA", "NC"])
@pytest.mark.parametrize(("rule", "person"), [("halt", 0), ("adopt", 0), ("ignore", 0), ("ignore", 40)])
def test_new_shares_whose_line_comes_before_that_of_the_old_ones_are_not_beside_them(
    kind: str, rule: str, person: int
) -> None:
    """Two AAA become one NEW. Each report tells only what is new, as the broker's reader does."""
    account = Account("20000")
    account.positions |= {"AAA": (person, Decimal(90))} if person else {}
    d = with_shares(account, Trading(broker=Broker(foreign_orders=rule)), AAA=60, BBB=10)  # type: ignore[arg-type]
    del account.positions["AAA"]
    account.positions["NEW"] = ((60 + person) // 2, Decimal(200))
    lines = line(kind, "NEW", (60 + person) // 2), line(kind, "AAA", -60 - person)
    first, second = (replace(one, time_ns=d.state.now_ns) for one in lines)
    d.put(*(replace(account.report(d.at(minute)), activities=(first,)) for minute in (-19, -18, -17)))
    d.quotes(-16, NEW="200")
    assert (d.held, d.state.book.equity, d.state.risk.halt) == ({"AAA": 60, "BBB": 10}, Decimal(20_000), None)
    d.put(replace(account.report(d.at(-15)), activities=(second,)), replace(account.report(d.at(-14)), activities=()))
    assert (d.held, d.state.broker.foreign_held) == ({"BBB": 10, "NEW": 30}, {"NEW": person // 2} if person else {})
    assert (d.state.book.positions["NEW"].cost, d.state.book.equity) == (Decimal(6000), Decimal(20_000))
    assert (d.state.risk.halt, d.state.risk.reconciled, d.state.broker.owners.disputed) == (None, True, ())


def test_new_shares_for_which_no_line_takes_any_are_booked_after_a_day() -> None:
    d = with_shares(account := Account(), AAA=60, BBB=10)
    account.positions["NEW"] = (30, Decimal(0))
    told = replace(account.report(d.at(-19)), activities=(line("MA", "NEW", 30),))
    d.put(told, replace(account.report(d.at(-18)), activities=()))
    assert (d.held, d.state.risk.halt, d.state.risk.reconciled) == ({"AAA": 60, "BBB": 10}, None, False)
    for minute in (-17, -16):
        d.put(replace(account.report(d.at(minute) + 2 * DAY), activities=()))
    assert (d.held, d.state.risk.reconciled) == ({"AAA": 60, "BBB": 10, "NEW": 30}, True)


@pytest.mark.parametrize("cash", ["5100", "0"])
def test_shares_that_left_are_paid_for_or_waited_for_some_nights(cash: str) -> None:
    d = with_shares(account := Account(), AAA=60, BBB=10)
    del account.positions["AAA"]
    account.book(line("MA", "AAA", -60, cash))
    d.put(account.report(d.at(-19)), account.report(d.at(-18)))
    if cash != "0":  # five sixths of what they were worth is all that comes
        assert (d.held, d.state.book.realized, d.state.risk.reconciled) == ({"BBB": 10}, Decimal(-900), True)
        return
    for day in range(1, 7):  # the ledger has nothing else
        d.put(account.report(d.at(-20) + day * DAY), account.report(d.at(-19) + day * DAY))
        assert (d.state.risk.halt is None) == (day < NIGHTS_MAX)
        assert not d.state.risk.reconciled
    assert d.state.risk.halt is not None
    assert (d.state.risk.halt.reason, d.state.risk.halt.detail) == ("reconciliation", "AAA: broker 0, book 60")


@pytest.mark.parametrize("rule", ["halt", "ignore", "adopt"])
def test_cash_of_a_merger_that_comes_after_the_shares_left_sells_them(rule: str) -> None:
    d = with_shares(account := Account(), Trading(broker=Broker(foreign_orders=rule)), AAA=60, BBB=10)  # type: ignore[arg-type]
    del account.positions["AAA"]
    account.book(line("MA", "AAA", -60))
    d.put(account.report(d.at(-19)), account.report(d.at(-18)))
    assert (d.held, d.state.risk.reconciled) == ({"AAA": 60, "BBB": 10}, False)
    account.book(line("MA", "AAA", amount="7200"))  # 20 USD a share above the cost
    d.put(account.report(d.at(-17)), account.report(d.at(-16)))
    book = d.state.book
    assert (d.held, book.cash, book.realized, book.equity) == (
        {"BBB": 10},
        account.cash,
        Decimal(1200),
        Decimal(11_200),
    )
    assert (book.peak, d.state.risk.halt, d.state.risk.reconciled) == (Decimal(11_200), None, True)


CASH_FOR_ALL = line("MA", "AAA", amount="7200")  # 20 USD a share above the cost


@pytest.mark.parametrize(
    "reports",
    [
        [[CASH_FOR_ALL, line("MA", "AAA", -60)]],
        [[CASH_FOR_ALL], [line("MA", "AAA", -60)]],
        [[line("MA", "AAA", -40), CASH_FOR_ALL, line("MA", "AAA", -20)]],
        [[line("MA", "AAA", -40), line("MA", "AAA", -20)], [CASH_FOR_ALL]],
    ],
)
def test_cash_of_a_merger_is_paid_for_the_shares_whichever_line_comes_first(reports: list[list[ev.Activity]]) -> None:
    """It is no gain beside shares that nobody has any more, which doubled the equity."""
    d = with_shares(account := Account(), AAA=60, BBB=10)
    del account.positions["AAA"]
    for minute, lines in enumerate(reports):
        for one in lines:
            account.book(one)
        d.put(account.report(d.at(minute - 19)))
        assert d.state.book.equity == (11_200 if CASH_FOR_ALL in account.lines else 10_000)
    d.put(account.report(d.at(-17)), account.report(d.at(-16)))
    book = d.state.book
    assert (d.held, book.cash) == ({"BBB": 10}, account.cash)
    assert (book.realized, book.equity, book.peak) == (Decimal(1200), Decimal(11_200), Decimal(11_200))
    assert (d.state.risk.halt, d.state.risk.reconciled) == (None, True)
    assert not d.state.basket.leavers


@pytest.mark.parametrize("rule", ["halt", "ignore", "adopt"])
def test_shares_that_a_merger_paid_for_and_are_still_there_halt_nothing_and_are_nobody_s(rule: str) -> None:
    """They leave minutes later; taken over they would count beside their cash."""
    d = with_shares(account := Account(), Trading(broker=Broker(foreign_orders=rule)), AAA=60, BBB=10)  # type: ignore[arg-type]
    account.book(CASH_FOR_ALL)
    told = [alarm for minute in (-19, -18, -17) for alarm in alarms(d.put(account.report(d.at(minute))))]
    assert (d.held, d.state.broker.foreign_held, told) == ({"BBB": 10}, {}, ["shares_renamed"])
    assert (d.state.book.equity, d.state.risk.halt, d.state.risk.reconciled) == (Decimal(11_200), None, False)
    del account.positions["AAA"]
    account.book(line("MA", "AAA", -60))
    d.put(account.report(d.at(-16)), account.report(d.at(-15)))
    assert (d.held, d.state.broker.foreign_held, d.state.book.equity) == ({"BBB": 10}, {}, Decimal(11_200))
    assert (d.state.risk.halt, d.state.risk.reconciled) == (None, True)


def test_cash_for_a_part_of_what_is_held_is_no_gain_beside_its_whole_worth() -> None:
    d = with_shares(account := Account(), AAA=60, BBB=10)
    account.book(line("MA", "AAA", amount="3000"))  # half of their worth
    d.put(account.report(d.at(-19)))
    assert (d.state.book.equity, d.state.book.peak) == (Decimal(10_000), Decimal(10_000))
    del account.positions["AAA"]
    account.positions["NEW"] = (30, Decimal(100))
    account.book(line("MA", "AAA", -60))
    account.book(line("MA", "NEW", 30))
    d.put(account.report(d.at(-18)), account.report(d.at(-17)))
    book = d.state.book
    assert (d.held, d.state.marks["NEW"], book.equity) == ({"BBB": 10, "NEW": 30}, Decimal(100), Decimal(10_000))
    assert (book.positions["NEW"].cost, book.realized, d.state.risk.reconciled) == (Decimal(3000), Decimal(0), True)


def test_cash_for_a_part_of_shares_that_left_leaves_the_rest_to_those_that_come() -> None:
    d = with_shares(account := Account(), AAA=60, BBB=10)
    del account.positions["AAA"]
    account.book(line("MA", "AAA", -60))
    d.put(account.report(d.at(-19)))
    account.book(line("MA", "AAA", amount="3000"))  # half of their worth
    d.put(account.report(d.at(-18)))
    assert (d.state.book.equity, d.state.book.peak, d.state.risk.reconciled) == (
        Decimal(10_000),
        Decimal(10_000),
        False,
    )
    account.positions["NEW"] = (30, Decimal(100))
    account.book(line("MA", "NEW", 30))
    d.put(account.report(d.at(-17)), account.report(d.at(-16)))
    book = d.state.book
    assert (d.held, d.state.marks["NEW"], book.equity) == ({"BBB": 10, "NEW": 30}, Decimal(100), Decimal(10_000))
    assert (book.positions["NEW"].cost, book.realized, d.state.risk.reconciled) == (Decimal(3000), Decimal(0), True)


@pytest.mark.parametrize("rule", ["ignore", "adopt"])
def test_shares_and_cash_of_a_merger_that_come_before_their_lines_are_no_other_s(rule: str) -> None:
    rules = Trading(broker=Broker(foreign_orders=rule))  # type: ignore[arg-type]
    d = with_shares(account := Account(), rules, AAA=60, BBB=10)
    del account.positions["AAA"]
    account.positions["NEW"] = (30, Decimal(50))
    account.cash += 3000
    d.put(account.report(d.at(-19)), account.report(d.at(-18)))
    assert (d.held, d.state.risk.reconciled) == ({"AAA": 60, "BBB": 10}, False)
    account.cash -= 3000  # the line brings it
    for told in (line("MA", "AAA", -60, "3000"), line("MA", "NEW", 30)):
        account.book(told)
    d.put(account.report(d.at(-17)), account.report(d.at(-16)))
    assert (d.held, d.state.book.cash, d.state.book.equity) == ({"BBB": 10, "NEW": 30}, account.cash, Decimal(10_000))
    assert d.state.risk.reconciled


def cash_before_its_line(account: Account, d: DailyDesk, amount: str) -> None:
    """Cash that the ledger tells later is there, and a person accepts it."""
    account.cash += Decimal(amount)
    d.put(account.report(d.at(-19)), account.report(d.at(-18)))
    d.put(ev.AcceptBrokerRequested(d.at(-17), "looked", "ann"), account.report(d.at(-16)), account.report(d.at(-15)))
    account.cash -= Decimal(amount)  # the line brings it


@pytest.mark.parametrize("rule", ["halt", "ignore", "adopt"])
def test_cash_that_a_person_accepted_is_not_booked_again_by_its_line(rule: str) -> None:
    d = with_shares(account := Account(), Trading(broker=Broker(foreign_orders=rule)), AAA=60)  # type: ignore[arg-type]
    cash_before_its_line(account, d, "52.30")
    account.book(line("DIV", "AAA", amount="52.30"))
    d.put(account.report(d.at(-14)), account.report(d.at(-13)))
    book = d.state.book
    assert (book.cash, book.realized, book.transfers) == (Decimal("4052.30"), Decimal(0), Decimal("52.30"))
    assert (d.state.risk.reconciled, d.state.broker.taken_cash) == (True, UNSET)
    account.book(replace(line("DIV", "AAA", amount="52.30"), id="another"))
    d.put(account.report(d.at(-12)), account.report(d.at(-11)))
    assert (d.state.book.cash, d.state.book.realized) == (Decimal("4104.60"), Decimal("52.30"))


@pytest.mark.parametrize("rule", ["halt", "ignore", "adopt"])
def test_a_merger_that_a_person_accepted_with_its_cash_is_not_booked_again_by_its_line(rule: str) -> None:
    rules = Trading(broker=Broker(foreign_orders=rule))  # type: ignore[arg-type]
    d = with_shares(account := Account(), rules, AAA=60, BBB=10)
    del account.positions["AAA"]
    cash_before_its_line(account, d, "7200")
    account.book(line("MA", "AAA", -60, "7200"))
    d.put(account.report(d.at(-14)), account.report(d.at(-13)))
    book = d.state.book
    assert (d.held, book.cash, book.equity) == ({"BBB": 10}, account.cash, Decimal(11_200))
    assert (book.peak, book.realized, book.transfers) == (Decimal(11_200), Decimal(0), Decimal(1200))
    assert d.state.risk.reconciled


@pytest.mark.parametrize("kind", ["DIV", "MA"])
@pytest.mark.parametrize("repeated", [True, False])
def test_cash_that_was_taken_over_waits_for_a_report_that_is_newer_than_what_is_known(
    kind: str, *, repeated: bool
) -> None:
    d = with_shares(account := Account(), Trading(broker=Broker(foreign_orders="ignore")), AAA=60, BBB=10)
    if kind == "MA":
        del account.positions["AAA"]
    cash_before_its_line(account, d, "7200")
    account.book(line(kind, "AAA", -60 if kind == "MA" else 0, "7200"))
    d.put(replace(account.report(d.at(-14)), asked_ns=d.at(-18)))  # it was on its way for long
    later = (account.report(d.at(-13)), account.report(d.at(-12)))
    d.put(*(later if repeated else (replace(report, activities=()) for report in later)))  # each line is told once
    assert (d.state.book.cash, d.state.broker.taken_cash) == (account.cash, UNSET)
    assert (d.state.book.realized, d.state.risk.reconciled) == (Decimal(0), True)


def test_what_differs_beside_shares_that_left_is_judged_at_once() -> None:
    d = with_shares(account := Account(), AAA=60, BBB=10)
    del account.positions["AAA"]
    account.positions["BBB"] = (8, Decimal(100))
    account.book(line("MA", "AAA", -60))
    d.put(account.report(d.at(-19)), account.report(d.at(-18)))
    assert d.state.risk.halt is not None
    assert d.state.risk.halt.reason == "reconciliation"


def test_shares_that_left_and_were_sold_meanwhile_hand_on_nothing() -> None:
    d = held_over_night()
    d.state = replace(d.state, broker=replace(d.state.broker, began_ns=1, account="A"))
    now = d.state.now_ns
    d.put(ev.BrokerReported(now, now, "A", d.state.book.cash, "", (), (), (), (), (line("NC", "BBB", -10),)))
    positions = {symbol: p for symbol, p in d.state.book.positions.items() if symbol != "BBB"}
    d.state = replace(d.state, book=replace(d.state.book, positions=positions))
    d.put(ev.BrokerReported(now, now, "A", d.state.book.cash, "", (), (), (), (), (line("NC", "NEW", 10),)))
    assert (d.held["NEW"], d.state.book.positions["NEW"].cost) == (10, Decimal(0))


def test_shares_that_left_and_were_taken_over_by_a_person_hand_nothing_on() -> None:
    d = with_shares(account := Account(), AAA=60, BBB=10)
    del account.positions["BBB"]
    account.book(line("REO", "BBB", -10))
    d.put(account.report(d.at(-19)), account.report(d.at(-18)))
    assert not d.state.risk.reconciled  # what became of them is not known
    d.put(ev.AcceptBrokerRequested(d.at(-17), "they are gone", "ann"), account.report(d.at(-16)))
    assert (d.held, d.state.basket.leavers) == ({"AAA": 60}, ())
    account.positions = {"NEW": (30, Decimal(200))}
    account.book(line("REO", "AAA", -60))
    account.book(line("REO", "NEW", 30))
    d.put(account.report(d.at(-15)), account.report(d.at(-14)))
    book = d.state.book  # they are AAA's, and not of what left before
    assert (d.held, book.positions["NEW"].cost, d.state.marks["NEW"]) == ({"NEW": 30}, Decimal(6000), Decimal(200))
    assert d.state.risk.reconciled


def test_a_part_that_leaves_under_a_new_name_takes_its_part_of_the_cost() -> None:
    d = held_over_night()
    report_lines(d, line("REO", "AAA", -20), line("REO", "NEW", 40))
    book = d.state.book
    assert {s: (p.quantity, p.cost) for s, p in book.positions.items()} == {
        "AAA": (40, Decimal(4000)), "BBB": (10, Decimal(1000)), "NEW": (40, Decimal(2000)),
    }  # fmt: skip
    assert (d.state.marks["NEW"], book.equity) == (Decimal(50), Decimal(10000))


def test_a_dividend_is_cash() -> None:
    d = held_over_night()
    assert report_lines(d, line("DIV", "AAA", 0, "13.80")) == []
    assert (d.state.book.cash, d.state.book.equity) == (Decimal("3013.80"), Decimal("10013.80"))


def test_a_fraction_that_a_split_leaves_out_is_no_loss_while_its_cash_is_awaited() -> None:
    d = DailyDesk().fund().holds(AAA=59)
    d.begin(TUESDAY)
    report_lines(d, fraction("SPLIT", "AAA", "-54.1"))  # 12 old shares are a new one of 1,200 USD: 4 and 0.9 of one
    assert d.held == {"AAA": 4}
    # of 10,000 USD there are 4,100 in cash and 4 x 5,900 / 4.9; the rest comes as cash and is 10.8 % of the equity
    assert (round(d.state.book.equity, 2), d.state.risk.halt) == (Decimal("8916.33"), None)
    assert session_loss(d.state.book) == pytest.approx(0.0, abs=1e-6)
    report_lines(d, fraction("CIL", "AAA", "0", "1083.67"))
    assert (round(d.state.book.equity, 2), d.state.book.realized) == (Decimal(10000), Decimal("1083.67"))
    assert session_loss(d.state.book) == pytest.approx(0.0, abs=1e-6)


def test_a_fraction_of_a_merger_s_new_shares_is_no_loss_either() -> None:
    d = held_over_night()
    report_lines(d, line("MA", "AAA", -60), fraction("MA", "NEW", "1.5"))  # one of 4,000 USD is held, half a one is not
    assert (d.held, d.state.book.equity, d.state.risk.halt) == ({"BBB": 10, "NEW": 1}, Decimal(8000), None)
    assert session_loss(d.state.book) == pytest.approx(0.0, abs=1e-6)


def test_shares_that_come_for_as_many_that_are_owed_leave_no_position() -> None:
    d = held_over_night()
    owed = replace(d.state.book.positions["BBB"], quantity=-10, cost=Decimal(-1000))
    positions = {**d.state.book.positions, "BBB": owed}
    d.state = replace(d.state, book=replace(d.state.book, positions=positions, cash=Decimal(5000)))
    report_lines(d, line("NC", "BBB", 10))
    assert d.held == {"AAA": 60}
    d.quotes(0, BBB="100")


def test_a_worthless_removal_loses_the_cost_of_the_shares() -> None:
    d = held_over_night()
    assert report_lines(d, line("REORG", "BBB", -10)) == ["shares_renamed", "daily_loss"]
    (detail,) = [alarm.detail for alarm in of(d.effects, RaiseAlarm) if alarm.name == "shares_renamed"]
    assert detail == "10 BBB were removed as worthless: the 1000.00 USD that they cost are lost"
    book = d.state.book  # ten shares at 100.00 are gone, for nothing
    assert (d.held, book.cash, book.realized, book.equity) == (
        {"AAA": 60}, Decimal(3000), Decimal(-1000), Decimal(9000),
    )  # fmt: skip


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("kind", ["NC", "SC", "MA"])
def test_a_name_that_a_company_had_within_a_day_brings_no_shares(kind: str, *, backwards: bool) -> None:
    """AAA became NEW, and AAA again, or another one: of a day only the first and the last count."""
    for last in ("AAA", "LAST"):
        d = held_over_night("live")
        lines = [line(kind, "AAA", -60), line(kind, "NEW", 60), line(kind, "NEW", -60), line(kind, last, 60)]
        report_lines(d, *(reversed(lines) if backwards else lines))
        assert d.held == {"BBB": 10, last: 60}
        assert (d.state.book.positions[last].cost, d.state.book.equity) == (Decimal(6000), Decimal(10000))
        assert d.state.basket.leavers == ()


def test_a_spin_off_that_is_taken_back_on_its_day_leaves_nothing() -> None:
    d = held_over_night("live")
    assert report_lines(d, line("SPIN", "OFF", 6), line("SPIN", "OFF", -6)) == []
    assert (d.held, d.state.book.equity) == ({"AAA": 60, "BBB": 10}, Decimal(10000))
