"""A person's shares beside the desk's own: each has its part of what the company does, by the close before the ex-date.

The desk bought 50 AAA at 100.00, a person 100 beside it; 10,000 USD at the begin.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.effects import SubmitOrder
from daemon.core.events import Activity
from daemon.core.limits import Basket, Broker, Trading
from daemon.core.state import Owners
from strategies.kit.quantity import Quantity, exact
from tests.support.core.account import Account, at_broker, line
from tests.support.core.daily_desk import KEEP, SYMBOLS, DailyDesk
from tests.support.core.daily_live import with_shares
from tests.support.core.desk import BUY_CALL, CALL, DAY, FRIDAY, HALF_DAY, PUT, SECOND, TUESDAY, Desk, alarms, of, sent
from tests.support.core.others import RULES

IGNORE = Trading(broker=Broker(foreign_orders="ignore", on_blind="alarm"), basket=Basket(position_weight_max=2.0))

FRACTIONS = Trading(broker=IGNORE.broker, basket=Basket(position_weight_max=2.0, fractions="on"))


def beside(
    others: int = 100, desk_quantity: int = 50, *, reload: bool = True, trading: Trading = IGNORE
) -> tuple[DailyDesk, Account]:
    """The desk on Tuesday before the open, and the account."""
    account = Account()
    account.positions["AAA"] = (others, Decimal(90))
    d = with_shares(account, trading, AAA=desk_quantity)
    d.reload = reload
    assert (d.held, d.state.broker.foreign_held, d.state.book.cash) == (
        {"AAA": desk_quantity}, {"AAA": others}, Decimal(10000 - 100 * desk_quantity),
    )  # fmt: skip
    return d, account


def of_today(kind: str, symbol: str, quantity: str, amount: str = "0", ex_date: str = "") -> Activity:
    """A line dated Tuesday, midnight in New York."""
    name = f"20240702000000000::{kind}-{symbol}-{quantity}-{amount}"
    time_ns = TUESDAY.open_ns - 34_200 * SECOND
    return Activity(name, kind, symbol, Decimal(quantity), None, Decimal(amount), "executed", time_ns, ex_date=ex_date)


def book(
    d: DailyDesk, account: Account, minute: float, shares: Quantity | None, *lines: Activity, symbol: str = "AAA"
) -> None:
    """The broker books the lines and holds so many shares of `symbol` afterwards; two reports say so."""
    for one in lines:
        account.book(one)
    if shares is not None:
        account.positions = {symbol: (shares, Decimal(1))}
    d.put(account.report(d.at(minute)))
    d.put(account.report(d.at(minute, 15)))


def halted(d: Desk | DailyDesk) -> str:
    return d.state.risk.halt.reason if d.state.risk.halt else ""


def holdings(d: DailyDesk) -> tuple[dict[str, Quantity], dict[str, Quantity]]:
    return d.held, d.state.broker.foreign_held


@pytest.mark.parametrize("lines", [("150",), ("-150", "300")])
def test_a_split_of_both_s_shares_gives_each_its_own(lines: tuple[str, ...]) -> None:
    d, account = beside()
    equity = d.state.book.equity
    book(d, account, -10, 300, *(of_today("SPLIT", "AAA", quantity) for quantity in lines))
    assert holdings(d) == ({"AAA": 100}, {"AAA": 200})
    assert (d.state.book.equity, halted(d), d.state.risk.reconciled) == (equity, "", True)


@pytest.mark.parametrize(
    ("desk_quantity", "other_quantity", "line_of", "shares", "desk"),
    [
        (51, 100, "-75.5", 75, 25),  # 1 for 2: 25.5 and 50; the half share comes as cash
        (51, 101, "-76", 76, 25),  # 25.5 and 50.5: whole shares, what is left over is the other's
        (50, 101, "-75.5", 75, 25),
    ],
)
def test_a_reverse_split_leaves_whole_shares_and_the_rest_to_the_other(
    desk_quantity: int, other_quantity: int, line_of: str, shares: int, desk: int
) -> None:
    d, account = beside(other_quantity, desk_quantity)
    book(d, account, -10, shares, of_today("SPLIT", "AAA", line_of))
    assert holdings(d) == ({"AAA": desk}, {"AAA": shares - desk})
    assert halted(d) == ""


@pytest.mark.parametrize(("desk_quantity", "other_quantity", "realised"), [(51, 100, "40.00"), (50, 101, "0")])
def test_cash_in_lieu_is_whose_the_fraction_was(desk_quantity: int, other_quantity: int, realised: str) -> None:
    d, account = beside(other_quantity, desk_quantity)
    book(d, account, -10, 75, of_today("SPLIT", "AAA", "-75.5"))
    before = d.state.book.realized
    book(d, account, -5, None, of_today("CIL", "AAA", "0", "40.00"))
    assert d.state.book.realized - before == Decimal(realised)
    assert d.state.book.cash == account.cash


@pytest.mark.parametrize(
    ("desk_quantity", "other_quantity", "desk", "other_after", "realised"),
    [
        (8, 63, 4, 31, "0"),  # 71 are 35.5: the desk has 4, the person 31.5, and the half share is the person's
        (51, 100, 25, 50, "40.00"),  # 25.5 and 50: the half share is the desk's
        (9, 62, 4, 31, "40.00"),  # 4.5 and 31
    ],
)
def test_cash_for_a_fraction_that_is_told_before_its_split_goes_to_whose_it_was(
    desk_quantity: int, other_quantity: int, desk: int, other_after: int, realised: str
) -> None:
    d, account = beside(other_quantity, desk_quantity)
    before, whole = d.state.book.realized, desk_quantity + other_quantity
    cash = of_today("CIL", "AAA", "-0.5", "40.00")
    split = [of_today("SPLIT", "AAA", quantity) for quantity in (str(-whole), str(whole / 2))]
    book(d, account, -10, whole // 2, cash, *split)
    assert holdings(d) == ({"AAA": desk}, {"AAA": other_after})
    assert d.state.book.realized - before == Decimal(realised)
    assert (d.state.book.cash, d.state.broker.owners.disputed) == (account.cash, ())


@pytest.mark.parametrize(
    ("desk_quantity", "other_quantity", "split", "fraction", "desk", "other_after", "realised"),
    [
        (51, 100, "-75.5", "-0.5", "25", "50", "-60"),  # 40 USD for half a share that cost 5,100 / 51
        (50, 101, "-75.5", "-0.5", "25", "50", "0"),
        (9, 4, "-11.7", "-0.3", "0.6", "0.4", "-260"),  # 0.9 and 0.4: what is beyond a share is the desk's first
        (4, 9, "-11.7", "-0.3", "0.1", "0.9", "-260"),
    ],
)
def test_with_fractions_cash_in_lieu_takes_the_fraction_from_whose_it_was(
    desk_quantity: int, other_quantity: int, split: str, fraction: str, desk: str, other_after: str, realised: str
) -> None:
    d, account = beside(other_quantity, desk_quantity, trading=FRACTIONS)
    after = exact(Decimal(desk) + Decimal(other_after))
    book(d, account, -10, after, of_today("SPLIT", "AAA", split), of_today("CIL", "AAA", fraction, "40.00"))
    assert holdings(d) == ({"AAA": exact(desk)}, {"AAA": exact(other_after)})
    assert (d.state.book.realized, d.state.book.cash, halted(d)) == (Decimal(realised), account.cash, "")


@pytest.mark.parametrize(("quantity", "ex_date"), [("0", "2024-07-02"), ("150", "")])  # for 150: since Monday's close
def test_a_dividend_of_both_s_shares_is_earned_by_the_desk_s_own(quantity: str, ex_date: str) -> None:
    d, account = beside()
    before = d.state.book
    book(d, account, -10, None, of_today("DIV", "AAA", quantity, "525.00", ex_date))
    assert d.state.book.realized - before.realized == Decimal("175.00")  # 525 x 50 / 150
    assert (d.state.book.cash, d.state.book.transfers) == (account.cash, Decimal("350.00"))


def test_a_dividend_whose_ex_date_was_before_the_desk_bought_is_the_other_s() -> None:
    d, account = beside()
    before = d.state.book.realized
    book(d, account, -10, None, of_today("DIV", "AAA", "0", "300.00", ex_date="2024-06-28"))
    assert d.state.book.realized == before
    assert d.state.book.cash == account.cash


def test_a_dividend_of_what_the_desk_sold_after_its_ex_date_is_still_its_own() -> None:
    d, account = beside()
    d.due()
    d.answer(*(0 if symbol == "AAA" else KEEP for symbol in SYMBOLS))
    [sale] = of(d.effects, SubmitOrder)[-1:]
    name = account.take(sale, d.state.now_ns)
    d.put(account.fill(name, 50, "100", d.at(1)), account.report(d.at(2)))
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.begin(HALF_DAY)
    before = d.state.book.realized
    book(d, account, -10, None, of_today("DIV", "AAA", "0", "150.00", ex_date="2024-07-02"))
    assert holdings(d) == ({}, {"AAA": 100})
    assert d.state.book.realized - before == Decimal("50.00")


def joined_on_half_day(
    *, reported: bool = True, trading: Trading = IGNORE, shares: int = 60
) -> tuple[DailyDesk, Account]:
    """The desk alone held 60 AAA at Tuesday's close, which a report came just before; a person buys 40 a day later."""
    account = Account("50000")
    d = with_shares(account, trading, AAA=shares)
    if reported:
        d.put(account.report(TUESDAY.close_ns - SECOND))
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.put(account.report(TUESDAY.close_ns + SECOND))
    d.begin(HALF_DAY)
    d.put(account.report(d.at(-20)))
    return d, account


def joins(d: DailyDesk, account: Account, minute: float) -> None:
    account.by_hand("ann", "AAA", +1, 40, d.at(minute))
    d.put(account.fill("ann", 40, "100", d.at(minute)), account.report(d.at(minute, 1)))
    assert holdings(d) == ({"AAA": 60}, {"AAA": 40})


@pytest.mark.parametrize(
    ("ex_date", "reported", "earned"),
    [
        ("2024-07-03", True, "60"),  # all is the desk's: who bought on the ex-date gets nothing
        ("2024-07-05", True, "36"),  # 60 of 100 shares
        ("2024-07-02", True, None),  # who held at Monday's close nobody watched
        ("2024-07-03", False, None),  # nor at Tuesday's, where the daemon was down before it
        ("", True, None),
    ],
)
def test_a_dividend_of_before_a_person_s_first_purchase_is_the_desk_s_alone(
    ex_date: str, reported: bool, earned: str | None
) -> None:
    d, account = joined_on_half_day(reported=reported)
    joins(d, account, 1)
    d.put(account.report(HALF_DAY.close_ns - SECOND))
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.put(account.report(HALF_DAY.close_ns + SECOND))
    d.begin(FRIDAY)
    before = d.state.book.realized
    account.book(replace(of_today("DIV", "AAA", "0", "60.00", ex_date), time_ns=FRIDAY.open_ns - 34_200 * SECOND))
    d.put(account.report(d.at(-20)), account.report(d.at(-19)))
    assert d.state.book.realized - before == Decimal(earned or 0)
    assert d.state.broker.owners.disputed == (() if earned else ("AAA",))
    assert d.state.book.cash == account.cash


def test_a_split_whose_line_comes_after_a_person_s_first_purchase_of_the_day_is_the_desk_s_alone() -> None:
    d, account = joined_on_half_day()
    account.positions["AAA"] = (120, Decimal(50))  # two for one
    d.put(account.report(d.at(-10)))
    joins(d, account, 1)  # of the new shares
    account.book(replace(of_today("SPLIT", "AAA", "60"), time_ns=HALF_DAY.open_ns - 34_200 * SECOND))
    d.put(account.report(d.at(2)), account.report(d.at(3)))
    assert (holdings(d), d.state.broker.owners.disputed) == (({"AAA": 120}, {"AAA": 40}), ())
    assert d.state.risk.reconciled


@pytest.mark.parametrize(
    ("shares", "lines", "own"),
    [(70, ("330",), 280), (70, ("-110", "440"), 280), (60, ("-100", "400"), 240), (60, ("300",), None)],
)
@pytest.mark.parametrize("is_late", [True, False])
def test_a_split_of_shares_that_a_person_bought_on_the_evening_before_is_of_both(
    shares: int, lines: tuple[str, ...], own: int | None, is_late: bool
) -> None:
    """Four for one, with the person's 40. 300 shares may be six for one of the desk's 60 alone: nothing is booked."""
    d, account = joined_on_half_day(shares=shares)
    account.by_hand("ann", "AAA", +1, 40, TUESDAY.close_ns + 3600 * SECOND)
    account.fill("ann", 40, "100", TUESDAY.close_ns + 3600 * SECOND)
    account.positions["AAA"] = (4 * shares + 160, Decimal(25))
    today_ns = HALF_DAY.open_ns - 34_200 * SECOND
    if is_late:
        d.put(account.report(d.at(-18)), account.report(d.at(-17)))
    for quantity in lines:
        account.book(replace(of_today("SPLIT", "AAA", quantity), time_ns=today_ns))
    d.put(account.report(d.at(-10)), account.report(d.at(-9)))
    if own is None:
        assert (d.held, d.state.broker.owners.disputed) == ({"AAA": shares}, ("AAA",))
        return
    assert holdings(d) == ({"AAA": own}, {"AAA": 160})
    assert d.state.risk.reconciled


@pytest.mark.parametrize(("rules", "divided", "paid"), [(IGNORE, "25", "0"), (FRACTIONS, "25.5", "-0.5")])
@pytest.mark.parametrize("bought_first", [True, False])
def test_cash_for_a_fraction_that_was_the_desk_s_alone_is_its_own_though_a_person_bought_since(
    rules: Trading, divided: str, paid: str, bought_first: bool
) -> None:
    d, account = joined_on_half_day(trading=rules, shares=51)
    lines = ("SPLIT", "-51", "0"), ("SPLIT", divided, "0"), ("CIL", paid, "100.00")
    today_ns = HALF_DAY.open_ns - 34_200 * SECOND
    *split, cash = [replace(of_today(kind, "AAA", shares, usd), time_ns=today_ns) for kind, shares, usd in lines]
    if not bought_first:
        book(d, account, -10, exact(divided), *split)
    account.fill(account.by_hand("ann", "AAA", +1, 3, d.at(1)), 3, "200", d.at(1))
    d.put(account.report(d.at(1, 1)))
    book(d, account, 2, 28, *(split if bought_first else ()), cash)
    assert (holdings(d), d.state.broker.owners.disputed) == (({"AAA": 25}, {"AAA": 3}), ())
    assert (d.state.book.transfers, d.state.book.cash) == (Decimal(-600), account.cash)  # her three shares at 200 USD


def test_what_a_split_left_to_be_paid_says_nothing_about_a_later_dividend() -> None:
    d, account = joined_on_half_day()
    book(d, account, -10, 120, replace(of_today("SPLIT", "AAA", "60"), time_ns=HALF_DAY.open_ns - 34_200 * SECOND))
    account.fill(account.by_hand("ann", "AAA", +1, 40, d.at(1)), 40, "50", d.at(1))
    d.put(account.report(d.at(1, 1)))
    d.put(account.report(HALF_DAY.close_ns - SECOND))
    d.end(**dict.fromkeys(SYMBOLS, 50.0))
    d.put(account.report(HALF_DAY.close_ns + SECOND))
    d.begin(FRIDAY)
    before = d.state.book.realized
    dividend = of_today("DIV", "AAA", "0", "80.00", "2024-07-05")
    account.book(replace(dividend, time_ns=FRIDAY.open_ns - 34_200 * SECOND))
    d.put(account.report(d.at(-20)), account.report(d.at(-19)))
    assert d.state.book.realized - before == 60  # 120 of 160 shares


def test_a_split_of_what_a_person_bought_that_day_is_the_person_s_where_the_desk_has_none() -> None:
    d, account = joined_on_half_day()
    account.fill(account.by_hand("ann", "BBB", +1, 38, d.at(1)), 38, "100", d.at(1))
    d.put(account.report(d.at(1, 1)))
    account.positions["BBB"] = (114, Decimal(33))
    account.book(replace(of_today("SPLIT", "BBB", "76"), time_ns=HALF_DAY.open_ns - 34_200 * SECOND))
    d.put(account.report(d.at(2)))
    assert holdings(d) == ({"AAA": 60}, {"BBB": 114})
    assert (d.state.risk.reconciled, d.state.broker.owners.lieu.get("BBB", 0)) == (True, 0)


def on_half_day(kind: str, shares: str, amount: str = "0") -> Activity:
    """A line of AAA dated midnight before the half day."""
    return replace(of_today(kind, "AAA", shares, amount), time_ns=HALF_DAY.open_ns - 34_200 * SECOND)


def buys_three(d: DailyDesk, account: Account, minute: float, shares: str = "3") -> None:
    name = account.by_hand("ann", "AAA", +1, exact(shares), d.at(minute))
    account.fill(name, exact(shares), "200", d.at(minute))
    d.put(account.report(d.at(minute, 1)), account.report(d.at(minute, 20)))


@pytest.mark.parametrize("cash_first", [True, False])
@pytest.mark.parametrize(
    ("rules", "left", "paid"), [(IGNORE, "25", "0"), (FRACTIONS, "25", "-0.5"), (FRACTIONS, "25.5", "-0.5")]
)
def test_cash_for_a_fraction_of_a_split_that_was_accepted_is_the_desk_s_though_a_person_bought_since(
    rules: Trading, left: str, paid: str, cash_first: bool
) -> None:
    """Half a share of 51 is 100 USD. What a person accepted has it, or has it not: it is in the book once or never."""
    d, account = joined_on_half_day(trading=rules, shares=51)
    account.positions["AAA"] = (exact(left), Decimal(200))
    d.put(account.report(d.at(-19)), account.report(d.at(-18)))
    d.put(ev.AcceptBrokerRequested(d.at(-17), "seen", "ann"), account.report(d.at(-16)), account.report(d.at(-15)))
    assert d.held == {"AAA": exact(left)}
    buys_three(d, account, 1)
    split = [on_half_day("SPLIT", "-51"), on_half_day("SPLIT", left)]
    cash = [on_half_day("CIL", paid, "100.00")]
    book(d, account, 3, None, *(cash if cash_first else split))
    book(d, account, 5, 28, *(split if cash_first else cash))
    d.put(account.report(d.at(6)))
    assert (holdings(d), d.state.broker.owners.disputed) == (({"AAA": 25}, {"AAA": 3}), ())
    assert (d.state.book.transfers, d.state.book.cash) == (Decimal(-600), account.cash)
    assert (d.state.broker.beside_fractions, d.state.risk.reconciled) == ({}, True)


@pytest.mark.parametrize("person", ["3", "3.3", "3.7"])
@pytest.mark.parametrize("paid", ["0", "-0.5"])
@pytest.mark.parametrize("cash_first", [True, False])
def test_cash_for_the_desk_s_fraction_takes_none_of_a_person_s(person: str, paid: str, cash_first: bool) -> None:
    """A line may not say how much it takes: of 25.5 and 3.3 shares it is the half."""
    d, account = joined_on_half_day(trading=FRACTIONS, shares=51)
    lines = [on_half_day("SPLIT", "-51"), on_half_day("SPLIT", "25.5")]
    cash = on_half_day("CIL", paid, "100.00")
    if not cash_first:
        book(d, account, -10, exact("25.5"), *lines)
    else:
        account.positions["AAA"] = (exact("25.5"), Decimal(200))
        d.put(account.report(d.at(-10)), account.report(d.at(-9)))
    buys_three(d, account, 1, person)
    if cash_first:
        book(d, account, 3, None, cash)
    book(d, account, 5, exact(Decimal(25) + Decimal(person)), *(lines if cash_first else [cash]))
    d.put(account.report(d.at(6)))
    assert holdings(d) == ({"AAA": 25}, {"AAA": exact(person)})
    assert (d.state.book.transfers, d.state.book.cash) == (Decimal(person) * -200, account.cash)


@pytest.mark.parametrize("rules", [IGNORE, FRACTIONS])
def test_cash_for_a_fraction_waits_for_its_split_though_a_person_bought_since(rules: Trading) -> None:
    d, account = joined_on_half_day(trading=rules, shares=51)
    account.positions["AAA"] = (25, Decimal(204))
    d.put(account.report(d.at(-19)), account.report(d.at(-18)))
    buys_three(d, account, 1)
    book(d, account, 3, None, on_half_day("CIL", "-0.5", "100.00"))
    book(d, account, 5, None, on_half_day("SPLIT", "-51"), on_half_day("SPLIT", "25.5" if rules is FRACTIONS else "25"))
    assert (holdings(d), d.state.broker.owners.disputed) == (({"AAA": 25}, {"AAA": 3}), ())
    assert (d.state.book.transfers, d.state.book.cash) == (Decimal(-600), account.cash)


@pytest.mark.parametrize("rules", [IGNORE, FRACTIONS])
@pytest.mark.parametrize("lines", [("-26",), ("-51", "25")])
def test_cash_for_a_person_s_fraction_is_no_gain_of_a_desk_whose_own_split_left_none(
    rules: Trading, lines: tuple[str, ...]
) -> None:
    """50 of the desk became 100, which a person sold. One for two is of what the person bought since: 51."""
    d = with_shares(account := Account("50000"), rules, AAA=50)
    book(d, account, -19, 100, of_today("SPLIT", "AAA", "50"))
    for name, side, count in (("ann-1", -1, 100), ("ann-2", +1, 51)):
        account.fill(account.by_hand(name, "AAA", side, count, d.at(3)), count, "50", d.at(3))
        d.put(account.report(d.at(3, 1)), account.report(d.at(3, 20)))
    assert holdings(d) == ({}, {"AAA": 51})
    d.end(**dict.fromkeys(SYMBOLS, 50.0))
    d.begin(HALF_DAY)
    d.put(account.report(d.at(-20)))
    before = d.state.book.realized
    book(d, account, -10, 25, *(on_half_day("SPLIT", count) for count in lines), on_half_day("CIL", "0", "50.00"))
    assert (holdings(d), d.state.book.realized - before) == (({}, {"AAA": 25}), Decimal(0))
    assert d.state.book.cash == account.cash


@pytest.mark.parametrize("own", [0, 60])
def test_shares_of_a_merger_are_not_mistaken_for_those_of_one_for_cash_long_before(own: int) -> None:
    """A person's 40 AAA, and the desk's, were paid for; a week later the desk's BBB becomes NEW."""
    account = Account("50000")
    account.positions |= {"AAA": (40, Decimal(90)), "ZZZ": (7, Decimal(1))}
    d = with_shares(account, IGNORE, BBB=10, **({"AAA": own} if own else {}))
    del account.positions["AAA"]
    book(d, account, -19, None, of_today("MA", "AAA", str(-40 - own), str(100 * (40 + own))))
    assert holdings(d) == ({"BBB": 10}, {"ZZZ": 7})
    del account.positions["BBB"]
    account.positions["NEW"] = (5, Decimal(200))
    for number, (symbol, count) in enumerate((("BBB", "-10"), ("NEW", "5"))):
        line_of_it = of_today("MA", symbol, count)
        account.book(replace(line_of_it, id=f"later {number}", time_ns=line_of_it.time_ns + 7 * DAY))
    d.put(account.report(d.at(-10) + 7 * DAY), account.report(d.at(-9) + 7 * DAY))
    assert (holdings(d), d.state.broker.owners.disputed) == (({"NEW": 5}, {"ZZZ": 7}), ())
    assert (d.state.book.positions["NEW"].cost, d.state.risk.reconciled) == (Decimal(1000), True)


def test_where_the_ex_date_is_not_known_and_holdings_changed_nothing_is_the_desk_s_and_it_says_so() -> None:
    d, account = beside()  # the desk bought on Monday: before, the other held alone
    before = d.state.book.realized
    book(d, account, -10, None, of_today("DIV", "AAA", "0", "300.00"))
    closes = d.state.broker.owners.closes["AAA"]
    assert [(one.own, one.others) for one in closes] == [(0, 100), (50, 100)]
    assert d.state.book.realized == before
    assert (d.state.broker.owners.disputed, d.state.book.cash) == (("AAA",), account.cash)
    assert "owner_unknown" in alarms(d.effects)
    d.due()
    d.answer(80, *(KEEP for _ in SYMBOLS[1:]))
    assert [order.side for order in of(d.quotes(1, AAA="100"), SubmitOrder)] == []
    d.put(ev.ResumeRequested(d.at(2), "op", "seen"))
    assert d.state.broker.owners.disputed == ()


def test_what_an_older_journal_held_before_its_first_note_is_not_known() -> None:
    d, account = beside()
    d.state = replace(d.state, broker=replace(d.state.broker, owners=Owners()))  # of a release that kept no closes
    before = d.state.book.realized
    book(d, account, -10, None, of_today("DIV", "AAA", "0", "300.00", ex_date="2024-06-28"))
    assert (d.state.book.realized, d.state.broker.owners.disputed) == (before, ("AAA",))
    book(d, account, -5, None, of_today("DIV", "AAA", "0", "150.00", ex_date="2024-07-02"))
    assert d.state.book.realized - before == Decimal("50.00")


def test_what_an_older_journal_sold_before_its_first_note_is_not_known_to_be_the_other_s() -> None:
    d, account = beside()
    d.due()
    d.answer(*(0 if symbol == "AAA" else KEEP for symbol in SYMBOLS))
    [sale] = of(d.effects, SubmitOrder)[-1:]
    name = account.take(sale, d.state.now_ns)
    d.put(account.fill(name, 50, "100", d.at(1)))
    d.state = replace(d.state, broker=replace(d.state.broker, owners=Owners()))  # of a release that kept no closes
    d.put(account.report(d.at(2)))  # the new release starts within the session
    assert holdings(d) == ({}, {"AAA": 100})
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.begin(HALF_DAY)
    before = d.state.book.realized
    book(d, account, -10, None, of_today("DIV", "AAA", "0", "150.00", ex_date="2024-07-02"))
    assert (d.state.book.realized, d.state.broker.owners.disputed) == (before, ("AAA",))  # 50 of 150 were the desk's
    assert "owner_unknown" in alarms(d.effects)
    book(d, account, -5, None, of_today("DIV", "AAA", "0", "100.00", ex_date="2024-07-03"))
    assert d.state.book.realized == before  # of Tuesday's close, which is known


def test_a_symbol_whose_owner_is_not_known_is_sold_all_the_same() -> None:
    d, account = beside()
    book(d, account, -20, None, of_today("DIV", "AAA", "0", "300.00"))
    assert d.state.broker.owners.disputed == ("AAA",)
    d.due()
    [sale] = of(d.answer(0, *(KEEP for _ in SYMBOLS[1:])), SubmitOrder)
    assert (sale.symbol, sale.side, sale.quantity) == ("AAA", -1, 50)


def test_a_new_name_takes_both_s_shares_along() -> None:
    d, account = beside()
    lines = of_today("NC", "AAA", "-150"), of_today("NC", "BBB", "150")
    book(d, account, -10, 150, *lines, symbol="BBB")
    assert holdings(d) == ({"BBB": 50}, {"BBB": 100})
    assert d.state.risk.reconciled


def test_a_dividend_that_was_earned_under_the_former_name_is_who_held_then() -> None:
    d, account = beside()
    lines = of_today("NC", "AAA", "-150"), of_today("NC", "BBB", "150")
    book(d, account, -10, 150, *lines, symbol="BBB")
    before = d.state.book.realized
    book(d, account, -5, None, of_today("DIV", "BBB", "0", "150.00", ex_date="2024-07-02"), symbol="BBB")
    assert (d.state.book.realized - before, d.state.broker.owners.disputed) == (Decimal("50.00"), ())


def test_a_desk_s_part_of_a_dividend_is_to_the_cent() -> None:
    d, account = beside(others=1000)
    before = d.state.book.realized
    book(d, account, -10, None, of_today("DIV", "AAA", "0", "525.00", "2024-07-02"))
    assert d.state.book.realized - before == Decimal("25.00")  # 525 x 50 / 1050


def renamed(*lines: Activity) -> DailyDesk:
    """The desk holds 50 AAA and a person 10 ZZZ alone; both get new names, in this order of lines."""
    account = Account()
    account.positions["ZZZ"] = (10, Decimal(90))
    d = with_shares(account, IGNORE, AAA=50)
    d.reload = True
    for one in lines:
        account.book(one)
    account.positions = {"AAX": (50, Decimal(100)), "ZZY": (10, Decimal(90))}
    d.put(account.report(d.at(-10)), account.report(d.at(-10, 15)))
    return d


NAMES = [("AAA", "-50"), ("ZZZ", "-10"), ("AAX", "50"), ("ZZY", "10")]


@pytest.mark.parametrize("order", [1, -1])
def test_new_names_of_what_each_holds_alone_stay_with_each(order: int) -> None:
    d = renamed(*(of_today("NC", symbol, quantity) for symbol, quantity in NAMES[::order]))
    assert holdings(d) == ({"AAX": 50}, {"ZZY": 10})
    assert (d.state.book.equity, d.state.book.transfers, d.state.risk.reconciled) == (Decimal(10000), Decimal(0), True)


@pytest.mark.parametrize(("goal", "there"), [(80, 180), (10, 110)])
def test_a_print_that_comes_the_morning_after_its_order_was_said_to_be_expired_is_no_person_s_trade(
    goal: int, there: int
) -> None:
    """Nor does the desk sell on, from what the person holds, what it sold itself."""
    d, account = beside()
    d.due()
    d.answer(goal, *(KEEP for _ in SYMBOLS[1:]))
    [order] = of(d.effects + d.quotes(0, AAA="100"), SubmitOrder)[-1:]
    name = account.take(order, d.state.now_ns)
    d.put(ev.OrderExpired(d.at(1), name))
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    d.begin(HALF_DAY)
    d.put(account.fill(name, order.quantity, "101", d.at(-25)))
    book(d, account, -20, None)
    assert account.positions["AAA"][0] == there
    assert (holdings(d), halted(d)) == (({"AAA": 50}, {"AAA": 100}), "reconciliation")


@pytest.mark.parametrize(
    "lines", [(("MA", "AAA", "-150"), ("MA", "BBB", "75")), (("NC", "AAA", "-150"), ("NC", "BBB", "150"))]
)
def test_shares_of_a_person_of_the_same_day_leave_with_the_line_that_takes_so_many(
    lines: tuple[tuple[str, str, str], ...],
) -> None:
    """The desk held 50 alone at Monday's close; a person buys 100 on Tuesday, on whose evening the company acts."""
    d = with_shares(account := Account(), IGNORE, AAA=50)
    d.reload = True
    name = account.by_hand("person-1", "AAA", 1, 100, d.at(10))
    account.fill(name, 100, "100", d.at(10))
    d.put(account.report(d.at(11)), account.report(d.at(12)))
    assert holdings(d) == ({"AAA": 50}, {"AAA": 100})
    d.end(**dict.fromkeys(SYMBOLS, 100.0))
    for kind, symbol, quantity in lines:
        account.book(replace(of_today(kind, symbol, quantity), time_ns=TUESDAY.close_ns + 7200 * SECOND))
    new = int(lines[1][2])
    account.positions = {"BBB": (new, Decimal(1))}
    d.begin(HALF_DAY)
    d.put(account.report(d.at(-30)), account.report(d.at(-30, 15)))
    assert holdings(d) == ({"BBB": new // 3}, {"BBB": 2 * new // 3})


@pytest.mark.parametrize("rule", ["halt", "ignore"])
def test_an_account_that_owes_shares_sells_none_of_the_desk_s_on_top(rule: str) -> None:
    """A person's two short calls were assigned: of the desk's 80 AAA the account has none, and owes 120."""
    account = Account("60000")
    d = with_shares(account, Trading(broker=RULES[rule], basket=IGNORE.basket), AAA=80)
    account.positions["AAA"] = (-120, Decimal(100))
    d.put(account.report(d.at(-20)), account.report(d.at(-19)), account.report(d.at(-18)))
    assert (d.held, halted(d)) == ({"AAA": 80}, "short_position")
    before = len(d.effects)
    d.put(ev.FlattenRequested(d.at(1), "out", "ann"))
    for minute in (2, 4, 6):
        d.quotes(minute, AAA="100")
        d.put(account.report(d.at(minute, 10)), account.report(d.at(minute, 25)))
    assert of(d.effects[before:], SubmitOrder) == []


@pytest.mark.parametrize("own", [0, 10])
def test_a_spin_off_of_a_person_s_shares_that_no_book_has_is_not_the_desk_s(own: int) -> None:
    """The rule is `halt`: 62 AAA of a person stand unexplained when their spin-off comes."""
    d = with_shares(account := Account(), Trading(broker=RULES["halt"]), **({"BBB": own} if own else {}))
    d.reload = True
    account.positions["AAA"] = (62, Decimal(100))
    d.put(account.report(d.at(-20)), account.report(d.at(-19)), account.report(d.at(-18)))
    assert halted(d) == "reconciliation"
    account.book(of_today("SPIN", "ZZZ", "31"))
    account.positions["ZZZ"] = (31, Decimal(10))
    d.put(account.report(d.at(-17)), account.report(d.at(-16)), account.report(d.at(-15)))
    assert (holdings(d), "owner_unknown" in alarms(d.effects)) == (({"BBB": own} if own else {}, {}), True)


BECAME = {"NC": ("AAX", 1), "MA": ("BBB", 2)}  # a new name, and a merger of two for one


def reorganised(account: Account, kind: str, step: str) -> None:
    """What the account shows of AAA's new name or merger: its positions or the ledger's lines."""
    symbol, ratio = BECAME[kind]
    if step == "positions":
        count, _ = account.positions.pop("AAA")
        account.positions[symbol] = (exact(Decimal(count) / ratio), Decimal(100 * ratio))
    else:
        count = 150 if "ZZZ" in account.positions else 50
        account.book(of_today(kind, "AAA", str(-count)))
        account.book(of_today(kind, symbol, str(count // ratio)))


@pytest.mark.parametrize("kind", BECAME)
@pytest.mark.parametrize("steps", [("positions", "lines"), ("lines", "positions")])
@pytest.mark.parametrize(("rule", "other_quantity"), [("ignore", 0), ("ignore", 100), ("adopt", 0)])
def test_what_became_of_shares_is_whose_they_were_whether_lines_or_positions_come_first(
    kind: str, steps: tuple[str, str], rule: str, other_quantity: int
) -> None:
    account = Account()
    account.positions |= {"AAA": (other_quantity, Decimal(100)), "ZZZ": (7, Decimal(1))} if other_quantity else {}
    d = with_shares(account, Trading(broker=RULES[rule]), AAA=50)
    d.reload = True
    for minute, step in zip((-18, -12), steps, strict=True):
        reorganised(account, kind, step)
        d.put(account.report(d.at(minute)), account.report(d.at(minute, 15)), account.report(d.at(minute, 30)))
    symbol, ratio = BECAME[kind]
    other_shares = {symbol: other_quantity // ratio, "ZZZ": 7} if other_quantity else {}
    assert holdings(d) == ({symbol: 50 // ratio}, other_shares)
    assert (d.state.book.cash, d.state.book.transfers, d.state.risk.reconciled) == (account.cash, Decimal(0), True)
    assert "reconciliation" in [halt.reason for halt in d.state.risk.halts]  # until a person has looked


@pytest.mark.parametrize("rule", ["halt", "ignore", "adopt"])
@pytest.mark.parametrize("kind", BECAME)
def test_what_a_person_accepted_in_place_of_shares_is_not_booked_again_by_its_lines(rule: str, kind: str) -> None:
    d = with_shares(account := Account(), Trading(broker=RULES[rule]), AAA=50)
    reorganised(account, kind, "positions")
    d.put(account.report(d.at(-18)), account.report(d.at(-18, 15)))
    d.put(ev.AcceptBrokerRequested(d.at(-17), "the company's page says so", "ann"), account.report(d.at(-16)))
    accepted = holdings(d)
    reorganised(account, kind, "lines")
    d.put(account.report(d.at(-12)), account.report(d.at(-12, 15)))
    symbol, ratio = BECAME[kind]
    assert holdings(d) == accepted
    assert [count for side in accepted for count in side.items()] == [(symbol, 50 // ratio)]
    assert (d.state.book.cash, d.state.risk.reconciled) == (account.cash, True)


@pytest.mark.parametrize("lines", [("50",), ("-50", "100")])
@pytest.mark.parametrize(("rule", "side"), [("adopt", -1), ("adopt", 1), ("ignore", -1), ("ignore", 1)])
def test_what_a_person_traded_after_a_split_that_one_report_tells_with_it_was_of_the_new_shares(
    rule: str, side: int, lines: tuple[str, ...]
) -> None:
    """The desk's 50 at 100 became 100 at 50 before a person traded 20 at 50, which is neither gain nor loss."""
    d = with_shares(account := Account(), Trading(broker=RULES[rule]), AAA=50)
    for quantity in lines:
        account.book(of_today("SPLIT", "AAA", quantity))
    account.positions["AAA"] = (100, Decimal(50))
    name = account.by_hand("person-1", "AAA", side, 20, d.at(10))
    account.fill(name, 20, "50", d.at(10))
    d.put(account.report(d.at(60)), account.report(d.at(60, 15)))
    own = 100 if (rule, side) == ("ignore", 1) else 100 + 20 * side
    assert holdings(d) == ({"AAA": own}, {"AAA": 20} if own == 100 else {})
    assert (d.state.book.realized, d.state.risk.reconciled, halted(d)) == (Decimal(0), True, "foreign_order")
    assert d.state.book.cash == account.cash
    assert "owner_unknown" not in alarms(d.effects)


def test_a_split_that_a_person_accepted_beside_others_shares_is_not_booked_again_by_its_line() -> None:
    d, account = beside()
    account.positions["AAA"] = (300, Decimal(50))
    d.put(account.report(d.at(-18)), account.report(d.at(-18, 15)))
    d.put(ev.AcceptBrokerRequested(d.at(-17), "seen", "ann"), account.report(d.at(-16)))
    assert holdings(d) == ({"AAA": 50}, {"AAA": 250})  # whose the new ones are nothing says
    book(d, account, -12, None, of_today("SPLIT", "AAA", "-150"), of_today("SPLIT", "AAA", "300"))
    assert (*holdings(d), d.state.risk.reconciled) == ({"AAA": 50}, {"AAA": 250}, True)


def test_adopting_gives_up_no_shares_of_a_spin_off_that_the_positions_do_not_show_yet() -> None:
    d = with_shares(account := Account(), Trading(broker=Broker(foreign_orders="adopt")), AAA=50)
    account.book(of_today("SPIN", "OFF", "10"))
    d.put(account.report(d.at(-18)), account.report(d.at(-18, 15)))
    assert (d.held, halted(d)) == ({"AAA": 50, "OFF": 10}, "reconciliation")
    account.positions["OFF"] = (10, Decimal(0))
    d.put(account.report(d.at(-12)))
    assert (d.held, d.state.risk.reconciled) == ({"AAA": 50, "OFF": 10}, True)


def test_shares_of_a_spin_off_are_nobody_s_gain_and_the_desk_says_so() -> None:
    d, account = beside()
    equity = d.state.book.equity
    account.book(of_today("SPIN", "BBB", "30"))
    account.positions["BBB"] = (30, Decimal(0))
    d.put(account.report(d.at(-10)), account.report(d.at(-10, 15)))
    assert holdings(d) == ({"AAA": 50}, {"AAA": 100, "BBB": 30})
    assert (d.state.book.equity, d.state.broker.owners.disputed) == (equity, ("BBB",))
    assert "owner_unknown" in alarms(d.effects)


@pytest.mark.parametrize("person", [0, 5])
def test_shares_of_a_spin_off_that_come_before_their_line_are_the_desk_s_where_it_holds_alone(person: int) -> None:
    account = Account()
    d = with_shares(account, IGNORE, AAA=50)
    if person:
        account.positions["CCC"] = (person, Decimal(100))
        account.cash -= 100 * person
        d.put(account.report(d.at(-19)), account.report(d.at(-18)))
    account.positions["NEW"] = (30, Decimal(0))
    d.put(account.report(d.at(-17)), account.report(d.at(-16)))
    other_shares = {"CCC": person} if person else {}
    assert holdings(d) == ({"AAA": 50}, {**other_shares, "NEW": 30})  # an order of others may explain them
    account.book(replace(of_today("SPIN", "NEW", "30"), price=Decimal(20)))
    d.put(account.report(d.at(-15)), account.report(d.at(-14)))
    assert ("owner_unknown" in alarms(d.effects), d.state.broker.owners.disputed) == (
        bool(person), ("NEW",) if person else ()
    )  # fmt: skip
    if person:  # they may come from the person's shares
        assert holdings(d) == ({"AAA": 50}, {**other_shares, "NEW": 30})
    else:
        assert (holdings(d), d.state.marks["NEW"]) == (({"AAA": 50, "NEW": 30}, {}), Decimal(20))
    assert (d.state.risk.reconciled, d.state.book.cash) == (True, account.cash)


def test_a_dividend_of_what_others_alone_hold_is_no_gain() -> None:
    d, account = beside()
    before = d.state.book.realized
    book(d, account, -10, None, of_today("DIV", "ZZZ", "0", "525.00"))
    assert (d.state.book.realized, d.state.book.cash) == (before, account.cash)


# --- options ----------------------------------------------------------------------------------------------------------

OTHER = "SPY240702C00490000"


def with_contracts(symbol: str, count: int) -> tuple[Desk, Account, Quantity]:
    """A person holds `count` of `symbol`, and the desk bought contracts of CALL; returns how many."""
    account = Account("1000000")
    account.positions[symbol] = (count, Decimal(2))
    d = at_broker(account, Broker(foreign_orders="ignore"))
    d.reload = True
    d.bar(0)
    order = sent(d.answer(BUY_CALL))
    name = account.take(order, d.state.now_ns)
    d.put(account.fill(name, order.quantity, "2.00", d.at(1)), account.report(d.at(2)))
    assert d.held == {CALL: order.quantity}
    return d, account, order.quantity


def test_an_adjusted_contract_that_a_person_sells_brings_a_hundred_times_its_price() -> None:
    d, account, contracts = with_contracts(adjusted := "SPY1240719C00490000", 3)
    name = account.by_hand("by-hand", adjusted, -1, 3, d.at(3))
    account.fill(name, 3, "4.00", d.at(3))
    d.put(account.report(d.at(3)), account.report(d.at(3, 20)))
    assert (d.state.book.cash, d.held, d.state.broker.foreign_held) == (account.cash, {CALL: contracts}, {})
    assert (d.state.book.transfers, d.state.risk.reconciled, d.halted()) == (Decimal(1200), True, "")


@pytest.mark.parametrize(("symbol", "count"), [(OTHER, 3), (CALL, 2)])
def test_a_person_who_exercises_leaves_the_desk_its_contracts_and_no_shares(symbol: str, count: int) -> None:
    d, account, contracts = with_contracts(symbol, count)
    strike = Decimal(symbol[10:]) / 1000
    shares = 100 * count
    account.book(line("OPTRD", "SPY", shares, str(-shares * strike)))
    account.book(line("OPEXC", symbol, -count))
    account.positions = {CALL: (contracts, Decimal(2)), "SPY": (shares, strike)}
    d.put(account.report(d.at(3)), account.report(d.at(3, 20)))
    assert (d.held, d.state.broker.foreign_held) == ({CALL: contracts}, {"SPY": shares})
    assert (halted(d), d.state.risk.reconciled, d.state.book.cash) == ("", True, account.cash)


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("symbol", [OTHER, CALL])
def test_contracts_of_both_exercised_on_one_day_leave_each_the_shares_of_its_own(symbol: str, order: int) -> None:
    d, account, contracts = with_contracts(symbol, 3)
    strike = Decimal(symbol[10:]) / 1000
    lines = [
        line("OPEXC", CALL, -contracts),
        line("OPEXC", symbol, -3),
        line("OPTRD", "SPY", 100 * contracts, str(-50000 * contracts)),
        line("OPTRD", "SPY", 300, str(-300 * strike)),
    ]
    for one in lines[::order]:
        account.book(one)
    account.positions = {"SPY": (300 + 100 * contracts, Decimal(500))}
    d.put(account.report(d.at(3)), account.report(d.at(3, 20)))
    assert (d.held, d.state.broker.foreign_held) == ({"SPY": 100 * contracts}, {"SPY": 300})
    assert (d.state.book.cash, d.state.book.positions["SPY"].cost) == (account.cash, Decimal(50000 * contracts))
    assert halted(d) == "shares_from_exercise"


def test_shares_of_a_call_and_of_a_person_s_put_at_one_strike_are_each_one_s() -> None:
    d, account, contracts = with_contracts(PUT, 10)
    account.book(line("OPEXC", CALL, -contracts))
    account.book(line("OPEXC", PUT, -10))
    account.book(line("OPTRD", "SPY", -1000, "500000"))
    account.positions = {"SPY": (-1000, Decimal(500))}
    d.put(account.report(d.at(3)))
    assert (contracts, d.held, d.state.broker.foreign_held) == (10, {}, {"SPY": -1000})
    account.book(line("OPTRD", "SPY", 1000, "-500000"))
    account.positions = {}
    d.put(account.report(d.at(4)), account.report(d.at(4, 20)))
    assert (d.held, d.state.book.cash, d.state.risk.reconciled) == ({}, account.cash, True)


def test_shares_that_come_before_the_line_of_their_contracts_are_not_the_desk_s() -> None:
    d, account, contracts = with_contracts(OTHER, 3)
    account.book(line("OPTRD", "SPY", 300, "-147000"))
    account.positions = {CALL: (contracts, Decimal(2)), OTHER: (3, Decimal(2)), "SPY": (300, Decimal(490))}
    d.put(account.report(d.at(3)))
    assert (d.held, d.state.broker.owners.disputed) == ({CALL: contracts}, ("SPY",))
    assert "owner_unknown" in alarms(d.effects)
    account.book(line("OPEXC", OTHER, -3))
    del account.positions[OTHER]
    d.put(account.report(d.at(3, 20)), account.report(d.at(3, 40)))
    assert (d.held, d.state.broker.foreign_held, halted(d)) == ({CALL: contracts}, {"SPY": 300}, "")


def with_strangers(own: int, count: int) -> tuple[DailyDesk, Account]:
    """The desk on Tuesday before the open. The rule is `halt`: `count` AAA of a person stand unexplained."""
    d = with_shares(account := Account(), Trading(broker=RULES["halt"]), AAA=own)
    d.reload = True
    account.positions["AAA"] = (own + count, Decimal(100))
    d.put(account.report(d.at(-30)), account.report(d.at(-29)), account.report(d.at(-28)))
    assert (holdings(d), halted(d)) == (({"AAA": own}, {}), "reconciliation")
    return d, account


@pytest.mark.parametrize(
    ("lines", "after"),
    [
        ((("SPLIT", "AAA", "30"),), ("AAA", 20, 40)),
        ((("SPLIT", "AAA", "-15"),), ("AAA", 5, 10)),
        ((("SPLIT", "AAA", "-30"), ("SPLIT", "AAA", "60")), ("AAA", 20, 40)),
        ((("MA", "AAA", "-30"), ("MA", "BBB", "60")), ("BBB", 20, 40)),
        ((("NC", "AAA", "-30"), ("NC", "AAX", "30")), ("AAX", 10, 20)),
        ((("REORG", "AAA", "-30"),), ("AAA", 0, 0)),
    ],
)
@pytest.mark.parametrize("lines_first", [False, True])
def test_what_a_company_does_with_a_person_s_unexplained_shares_gives_the_desk_none_of_them(
    lines: tuple[tuple[str, str, str], ...], after: tuple[str, int, int], lines_first: bool
) -> None:
    d, account = with_strangers(10, 20)
    for kind, symbol, quantity in lines:
        account.book(of_today(kind, symbol, quantity))
    symbol, own, others = after
    if lines_first:
        d.put(account.report(d.at(-11)))
    account.positions = {symbol: (own + others, Decimal(1))} if own else {}
    d.put(account.report(d.at(-10)), account.report(d.at(-10, 15)))
    assert holdings(d) == (({symbol: own}, {symbol: others}) if own else ({}, {}))
    assert "owner_unknown" in alarms(d.effects)


def test_positions_that_show_a_split_before_its_line_give_the_desk_no_share_of_a_person_s() -> None:
    d, account = with_strangers(10, 20)
    account.positions = {"AAA": (60, Decimal(50))}
    d.put(account.report(d.at(-20)), account.report(d.at(-19)))
    account.book(of_today("SPLIT", "AAA", "30"))
    d.put(account.report(d.at(-10)), account.report(d.at(-10, 15)))
    assert d.held["AAA"] <= 20
    assert d.state.risk.halt is not None


def test_a_dividend_of_a_person_s_unexplained_shares_is_no_profit_of_the_desk() -> None:
    d, account = with_strangers(10, 20)
    former = d.state.book.realized
    account.book(of_today("DIV", "AAA", "0", "30", "2024-07-01"))
    d.put(account.report(d.at(-10)), account.report(d.at(-10, 15)))
    assert (d.state.book.realized, "owner_unknown" in alarms(d.effects)) == (former, True)
