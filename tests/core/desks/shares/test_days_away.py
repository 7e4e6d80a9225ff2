"""A desk that is down for days, while companies and a person change what its account holds.

The account of `tests.support.core.account` is the truth; whose shares are whose is counted by hand. The desk bought on
Monday at 100.00, was down from Tuesday's morning on, and starts eight days later.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import RaiseAlarm, SubmitOrder
from daemon.core.limits import Trading
from strategies.kit.contract import Session
from strategies.kit.quantity import Quantity, exact
from tests.support.core.account import Account, line
from tests.support.core.daily_desk import LAST_FRIDAY, MIDNIGHT, DailyDesk, bar
from tests.support.core.daily_live import IGNORE, buy, live, with_shares
from tests.support.core.desk import DAY, FRIDAY, HALF_DAY, MINUTE, MONDAY, TUESDAY, of
from tests.support.core.fractions_desk import FRACTIONS

BACK = Session("2024-07-10", MONDAY.open_ns + 9 * DAY, MONDAY.close_ns + 9 * DAY)


def dated(day: Session, told: ev.Activity, ex: str = "") -> ev.Activity:
    """A line of that day, which the broker dates at midnight."""
    return replace(told, id=f"{day.date} {told.id}", time_ns=day.open_ns - MIDNIGHT, ex_date=ex)


def beside(account: Account, persons: dict[str, int], **own: int) -> DailyDesk:
    """A desk that bought 20 AAA and 10 BBB, or other shares, beside those that a person had before."""
    account.positions = {symbol: (count, Decimal(100)) for symbol, count in persons.items()}
    d = live(account, IGNORE)
    buy(d, account, **(own or {"AAA": 20, "BBB": 10}))
    assert d.state.broker.foreign_held == persons
    return d


def holds(account: Account, **shares: int) -> None:
    """The account has these shares now, the desk's and others'."""
    account.positions = {symbol: (count, Decimal(100)) for symbol, count in shares.items()}


def traded(account: Account, symbol: str, quantity: int, day: Session, price: str = "100") -> None:
    """A person's order of that day, after the open, which was filled."""
    name, side = f"hand-{len(account.orders)}", 1 if quantity > 0 else -1
    account.by_hand(name, symbol, side, abs(quantity), day.open_ns + MINUTE)
    account.fill(name, abs(quantity), price, day.open_ns + MINUTE)
    account.fills.pop()  # the link passes on the desk's alone


def starts_again(d: DailyDesk, account: Account) -> list[RaiseAlarm]:
    """The first report, the sessions that were missed, and three reports with news alone; returns all alarms."""
    now = BACK.open_ns - 31 * MINUTE
    effects = d.put(account.report(now), ev.SessionEnded(now, TUESDAY.date))
    account.orders.clear()
    for day, before in ((HALF_DAY, TUESDAY), (FRIDAY, HALF_DAY)):
        effects += d.put(ev.SessionScheduled(now, day, (BACK,), (before,)), ev.SessionEnded(now, day.date))
    d.session = BACK
    effects += d.put(ev.SessionScheduled(d.at(-30), BACK, (), (FRIDAY,)))
    for minute in (-20, -19, -18):
        effects += d.put(account.report(d.at(minute)))
    return of(effects, RaiseAlarm)


def sold_of(d: DailyDesk, account: Account, **prices: str) -> dict[str, Quantity]:
    """What a flatten sells of each symbol; each order is filled at once."""
    effects = d.put(ev.FlattenRequested(d.at(2), "out", "ann"))
    sold: dict[str, Quantity] = {}
    for second in range(10, 130, 10):
        effects += d.quotes(2 + second / 60, **prices)
        for order in of(effects, SubmitOrder):
            sold[order.symbol] = sold.get(order.symbol, 0) + order.quantity
            d.put(
                account.fill(account.take(order, d.state.now_ns), order.quantity, prices[order.symbol], d.state.now_ns)
            )
        effects = d.put(account.report(d.state.now_ns + 1))
    return sold


@pytest.mark.parametrize("rules", [None, IGNORE])
def test_shares_that_a_person_moved_in_days_ago_are_no_split_and_no_exit_sells_them(rules: Trading | None) -> None:
    """Of 20 AAA that cost 2,000 USD 50 would be five for two, and the bars fell as by a split of five for four."""
    d = with_shares(account := Account(), rules, AAA=20, BBB=10)
    account.book(dated(TUESDAY, line("ACATS", "AAA", 30)))
    account.positions["AAA"] = (50, Decimal(40))
    fallen = tuple(bar("AAA", day, 80.0) for day in (LAST_FRIDAY, MONDAY))
    d.put(ev.HistoryAdjusted(d.state.now_ns, "AAA", fallen))
    assert "split_awaited" not in [alarm.name for alarm in starts_again(d, account)]
    assert sold_of(d, account, AAA="80", BBB="100") == {"AAA": 20, "BBB": 10}


def test_after_a_bust_a_new_name_is_that_of_the_persons_shares() -> None:
    """The purchase of 20 AAA never was: the five that get a new name are a person's."""
    d = beside(account := Account(), {"AAA": 5})
    fill = next(fill for fill in account.fills if fill.symbol == "AAA")
    gone = replace(line("AMENDED_FILL", "AAA", -20, "2000"), order=fill.client_order_id, side=1)
    account.book(dated(HALF_DAY, replace(gone, filled_ns=fill.filled_ns)))
    account.lines += [dated(FRIDAY, line("NC", "AAA", -5)), dated(FRIDAY, line("NC", "AAAN", 5))]
    holds(account, AAAN=5, BBB=10)
    account.orders.clear()
    account.fills.clear()
    starts_again(d, account)
    assert (d.held, d.state.broker.foreign_held, d.state.book.cash) == ({"BBB": 10}, {"AAAN": 5}, account.cash)
    assert d.state.risk.reconciled


@pytest.mark.parametrize("spun_first", [True, False])
def test_a_spin_off_is_not_the_desk_s_while_a_person_s_shares_change_their_name(*, spun_first: bool) -> None:
    """The ledger does not say of which shares it is: the person had 10 AAA."""
    d = beside(account := Account(), {"AAA": 10})
    spun, named = line("SPIN", "SPN", 10), line("NC", "AAAN", 30)
    lines = [line("NC", "AAA", -30), *((spun, named) if spun_first else (named, spun))]
    account.lines += [dated(FRIDAY, told) for told in lines]
    holds(account, AAAN=30, BBB=10, SPN=10)
    assert "owner_unknown" in [alarm.name for alarm in starts_again(d, account)]
    assert (d.held, d.state.broker.foreign_held) == ({"AAAN": 20, "BBB": 10}, {"AAAN": 10, "SPN": 10})


def test_a_spin_off_is_not_the_desk_s_though_the_person_sold_before_the_desk_is_back() -> None:
    """Of the 10 SPN of 20 AAA the person's 10 brought five."""
    d = beside(account := Account(), {"AAA": 10}, AAA=10)
    account.lines.append(dated(HALF_DAY, line("SPIN", "SPN", 10)))
    traded(account, "AAA", -10, HALF_DAY)
    holds(account, AAA=10, SPN=10)
    assert "owner_unknown" in [alarm.name for alarm in starts_again(d, account)]
    assert (d.held, d.state.broker.foreign_held) == ({"AAA": 10}, {"SPN": 10})


@pytest.mark.parametrize(
    ("before", "change", "ex", "paid"),
    [(0, 20, FRIDAY, "40"), (20, -20, FRIDAY, "20"), (20, -20, HALF_DAY, "40")],
)
def test_a_dividend_is_divided_by_what_each_held_though_no_close_was_seen(
    before: int, change: int, ex: Session, paid: str
) -> None:
    """The person trades AAA on Wednesday, 1 USD a share is paid on Friday: the desk's part is always that of its 20."""
    d = beside(account := Account(), {"AAA": before} if before else {})
    traded(account, "AAA", change, HALF_DAY)
    account.book(dated(FRIDAY, line("DIV", "AAA", 0, paid), ex.date))
    holds(account, AAA=20 + before + change, BBB=10)
    starts_again(d, account)
    assert (d.state.book.realized, d.state.book.cash) == (Decimal(20), account.cash)


def test_a_dividend_is_divided_by_the_shares_that_a_person_moved_in_too() -> None:
    d = beside(account := Account(), {})
    account.book(dated(TUESDAY, line("ACATS", "AAA", 20)))
    account.book(dated(FRIDAY, line("DIV", "AAA", 0, "40"), FRIDAY.date))
    holds(account, AAA=40, BBB=10)
    assert starts_again(d, account) == []
    assert (d.state.book.realized, d.state.broker.foreign_held) == (Decimal(20), {"AAA": 20})


@pytest.mark.parametrize(("ex", "paid"), [(HALF_DAY, "40"), (FRIDAY, "80")])
def test_a_dividend_is_divided_at_its_day_whatever_the_person_did_later(ex: Session, paid: str) -> None:
    """20 AAA come on Tuesday, told after the 40 that the person buys on Wednesday."""
    d = beside(account := Account(), {})
    traded(account, "AAA", 40, HALF_DAY)
    account.book(dated(TUESDAY, line("ACATS", "AAA", 20)))
    account.book(dated(FRIDAY, line("DIV", "AAA", 0, paid), ex.date))
    holds(account, AAA=80, BBB=10)
    starts_again(d, account)
    assert (d.state.book.realized, d.state.broker.foreign_held) == (Decimal(20), {"AAA": 60})


def test_an_order_of_yesterday_that_fills_today_has_no_part_of_todays_dividend() -> None:
    """The desk is there all the time. 1 USD is paid for each of its own 20 AAA."""
    d = beside(account := Account(), {"BBB": 5})
    d.put(account.report(d.at(389)), account.report(d.at(391)))
    account.by_hand("hand", "AAA", 1, 20, d.at(100))
    d.put(account.report(d.at(392)), ev.SessionEnded(d.at(393), TUESDAY.date))
    d.begin(HALF_DAY)
    d.put(account.report(d.at(-20)))
    account.fill("hand", 20, "100", d.at(1))
    account.fills.pop()
    account.book(dated(HALF_DAY, line("DIV", "AAA", 0, "20"), HALF_DAY.date))
    d.put(account.report(d.at(2)))
    assert (d.state.book.realized, d.state.broker.foreign_held) == (Decimal(20), {"AAA": 20, "BBB": 5})


def test_what_comes_of_shares_that_a_person_moved_in_is_not_the_desk_s_by_the_rule_halt() -> None:
    """They are in no book: a dividend of 40 AAA and 40 shares of a spin-off may be anybody's."""
    d = with_shares(account := Account(), AAA=20, BBB=10)
    account.book(dated(TUESDAY, line("ACATS", "AAA", 20)))
    account.book(dated(FRIDAY, line("DIV", "AAA", 0, "40"), FRIDAY.date))
    account.lines.append(dated(FRIDAY, line("SPIN", "SPN", 40)))
    holds(account, AAA=40, BBB=10, SPN=40)
    names = [alarm.name for alarm in starts_again(d, account)]
    assert (names.count("owner_unknown"), d.state.book.realized) == (2, Decimal(0))
    assert sold_of(d, account, AAA="100", BBB="100", SPN="10") == {"AAA": 20, "BBB": 10}


def test_what_a_person_bought_before_and_after_a_split_is_of_the_old_and_the_new_shares() -> None:
    """One for ten of 20 of the desk and 10 of the person, who then buys four new ones."""
    d = beside(account := Account(), {})
    traded(account, "AAA", 10, TUESDAY)
    account.lines += [dated(HALF_DAY, line("SPLIT", "AAA", -30)), dated(HALF_DAY, line("SPLIT", "AAA", 3))]
    holds(account, AAA=3, BBB=10)
    traded(account, "AAA", 4, FRIDAY, "1000")
    names = {alarm.name for alarm in starts_again(d, account)}
    assert names == {"foreign_order"}
    assert (d.held, d.state.broker.foreign_held) == ({"AAA": 2, "BBB": 10}, {"AAA": 5})
    assert (d.state.risk.reconciled, d.state.book.cash) == (True, account.cash)


def test_shares_of_a_merger_are_not_doubted_for_one_in_cash_days_before() -> None:
    """BBB is paid for on Tuesday, and on Friday two MMM replace each of the 30 AAA, 10 of them a person's."""
    d = beside(account := Account(), {"AAA": 10})
    account.book(dated(TUESDAY, line("MA", "BBB", -10, "1000")))
    account.lines += [dated(FRIDAY, line("MA", "AAA", -30)), dated(FRIDAY, line("MA", "MMM", 60))]
    holds(account, MMM=60)
    starts_again(d, account)
    assert (d.held, d.state.broker.foreign_held) == ({"MMM": 40}, {"MMM": 20})
    assert d.state.risk.reconciled


def test_of_two_new_names_in_one_night_each_replaces_its_own_shares() -> None:
    """The desk has as many of both, and a person 10 BBB."""
    d = beside(account := Account(), {"BBB": 10}, AAA=20, BBB=20)
    lines = [("AAA", -20), ("BBB", -30), ("BBBN", 30), ("AAAN", 20)]
    account.lines += [dated(FRIDAY, line("NC", symbol, count)) for symbol, count in lines]
    holds(account, AAAN=20, BBBN=30)
    renamed = [alarm.detail.partition(";")[0] for alarm in starts_again(d, account)]
    assert renamed == ["20 BBB became 20 BBBN", "20 AAA became 20 AAAN"]
    assert (d.held, d.state.broker.foreign_held) == ({"AAAN": 20, "BBBN": 20}, {"BBBN": 10})


def test_a_spin_off_whose_owner_is_not_known_is_waited_for_no_longer() -> None:
    """It is announced. Its line came, and its shares are counted as others'."""
    d = beside(account := Account(), {"AAA": 5})
    account.lines.append(dated(BACK, line("SPIN", "SPN", 10)))
    told = replace(line("SPIN", "BBB"), id=f"{BACK.date} SPIN BBB", status="announced", ex_date=BACK.date)
    account.lines.append(replace(told, time_ns=BACK.open_ns - 31 * MINUTE))
    holds(account, AAA=25, BBB=10, SPN=10)
    names = [alarm.name for alarm in starts_again(d, account)]
    assert names == ["owner_unknown", "position_changed"]
    assert (d.held, d.state.broker.foreign_held) == ({"AAA": 20, "BBB": 10}, {"AAA": 5, "SPN": 10})
    assert d.state.risk.reconciled


def test_cash_of_a_merger_is_whose_shares_left_though_they_left_days_before() -> None:
    d = beside(account := Account(), {"AAA": 10})
    account.lines.append(dated(FRIDAY, line("MA", "AAA", -30)))
    holds(account, BBB=10)
    starts_again(d, account)
    two_days_ago = replace(BACK, date="2024-07-08", open_ns=BACK.open_ns - 2 * DAY)
    account.book(dated(two_days_ago, line("MA", "AAA", 0, "3000")))
    d.put(account.report(d.at(-10)), account.report(d.at(-9)))
    assert (d.held, d.state.book.realized, d.state.book.cash) == ({"BBB": 10}, Decimal(0), account.cash)


@pytest.mark.parametrize("first", [-30, 300])
def test_a_split_whose_two_lines_come_apart_gives_each_its_own(first: int) -> None:
    """Ten for one of 20 AAA of the desk and 10 of a person."""
    d = beside(account := Account(), {"AAA": 10})
    lines = {count: dated(BACK, line("SPLIT", "AAA", count)) for count in (-30, 300)}
    account.positions["AAA"] = (300, Decimal(10))
    account.lines.append(lines.pop(first))
    starts_again(d, account)
    account.lines += lines.values()
    d.put(account.report(d.at(-10)), account.report(d.at(-9)))
    assert (d.held, d.state.broker.foreign_held) == ({"AAA": 200, "BBB": 10}, {"AAA": 100})
    assert d.state.risk.reconciled


def test_a_stock_dividend_is_the_desk_s_though_its_fraction_was_counted_beside_before() -> None:
    """Eleven for ten of its 21 AAA, 23.1: the broker shows them before the line."""
    d = with_shares(account := Account(), AAA=21, BBB=10)
    account.positions["AAA"] = (exact("23.1"), Decimal("90.9091"))
    starts_again(d, account)
    account.lines.append(dated(BACK, line("SPLIT", "AAA", exact("2.1"))))
    assert of(d.put(account.report(d.at(-10)), account.report(d.at(-9))), RaiseAlarm) == []
    assert (d.held, d.state.broker.beside_fractions) == ({"AAA": 23, "BBB": 10}, {"AAA": Decimal("0.1")})
    assert d.state.risk.reconciled


def test_where_the_owner_of_a_split_is_not_known_an_exit_sells_what_the_book_has() -> None:
    """A stock dividend of 10 AAA of the desk and 23 that a person moved in, 34.65: 34 and the cash for the rest."""
    d = with_shares(account := Account(), FRACTIONS, AAA=10, BBB=10)
    account.book(dated(TUESDAY, line("ACATS", "AAA", 23)))
    account.lines.append(dated(BACK, line("SPLIT", "AAA", 1)))
    account.book(dated(BACK, line("CIL", "AAA", 0, "61.90")))
    holds(account, AAA=34, BBB=10)
    assert "owner_unknown" in [alarm.name for alarm in starts_again(d, account)]
    assert sold_of(d, account, AAA="95.2381", BBB="100") == {"AAA": 10, "BBB": 10}
