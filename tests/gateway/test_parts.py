"""Whose a line of the ledger is: parts worked out by hand."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal

import pytest

from daemon.alpaca_api.wire import Json, stamp
from daemon.gateway.books import DayFill, GatewayOrder, Ledgers, LinePart, SubAccount
from daemon.gateway.events import MAIN
from daemon.gateway.parts import Division, LedgerLine, apportion, divide, line_of
from strategies.kit.units import DAY_NS, SECOND_NS

FILLED = {"1": (Decimal(1), Decimal(100))}
NOON_NS = 1_709_139_600 * SECOND_NS  # 2024-02-28 12:00 in New York
DAY, NEXT_DAY = "2024-02-28", "2024-02-29"

dec = Decimal


def books(**holdings: dict[str, object]) -> Ledgers:
    """Ledgers of sub-accounts by name: symbol -> quantity, each share for 100 USD, and their cash."""
    ledgers = Ledgers(number="PA1", now_ns=NOON_NS)
    for name, quantities in holdings.items():
        account = ledgers.accounts.setdefault(name, SubAccount(name, f"PA1-{name}"))
        for symbol, quantity in quantities.items():
            if symbol == "cash":
                account.cash = dec(str(quantity))
            else:
                ledgers.book(name, symbol, LinePart(dec(str(quantity)), cost=dec(str(quantity)) * 100))
    return ledgers


def line(kind: str, symbol: str = "", quantity: str = "0", amount: str = "0", **more: str) -> LedgerLine:
    row: Json = {"id": f"20240228120000000::{kind}-{symbol}-{quantity}-{amount}", "activity_type": kind, "date": DAY}
    row |= {"symbol": symbol, "qty": quantity, "net_amount": amount, "status": "executed", **more}
    return line_of(row)


def book(ledgers: Ledgers, division: Division, symbol: str) -> dict[str, Decimal]:
    """Book the parts; returns who then holds how much."""
    for name, part in division.parts.items():
        ledgers.book(name, symbol, part)
    return ledgers.holders(symbol)


def cash_of(division: Division) -> dict[str, Decimal]:
    return {name: part.amount for name, part in division.parts.items()}


def quantities_of(division: Division) -> dict[str, Decimal]:
    return {name: part.quantity for name, part in division.parts.items()}


# --- sums -------------------------------------------------------------------------------------------------------------


def test_cents_go_to_the_largest_remainders() -> None:
    # 10.00 by 1 : 1 : 1 is 3.333… each: one cent is left, and goes to the first by name; main comes last
    weights = {"main": dec(1), "b": dec(1), "a": dec(1)}
    assert apportion(dec("10.00"), weights) == {"a": dec("3.34"), "b": dec("3.33"), "main": dec("3.33")}
    # -0.05 by 2 : 1 is -0.0333 and -0.0167: the second remainder (.67 of a cent) is the larger one
    assert apportion(dec("-0.05"), {"a": dec(2), "b": dec(1)}) == {"a": dec("-0.03"), "b": dec("-0.02")}


def test_parts_of_a_sum_finer_than_a_cent_add_up_to_it() -> None:
    parts = apportion(dec("0.0127"), {"a": dec(1), "b": dec(1)})
    assert sum(parts.values()) == dec("0.0127")


def test_without_a_weight_all_of_it_is_mains() -> None:
    assert apportion(dec("-3.00"), {"a": dec(0)}) == {MAIN: dec("-3.00")}


# --- fees -------------------------------------------------------------------------------------------------------------


def with_trades(ledgers: Ledgers) -> Ledgers:
    """`a` sold 30 shares at 100 and bought 2 contracts at 1.50; `b` sold 10 shares at 300 and 6 contracts at 1.00."""
    call = "SPY240301C00400000"
    ledgers.trades[DAY] = [
        DayFill("a", "SPY", -1, dec(30), dec(100)),
        DayFill("a", call, 1, dec(2), dec("1.50")),
        DayFill("b", "QQQ", -1, dec(10), dec(300)),
        DayFill("b", call, -1, dec(6), dec("1.00")),
    ]
    return ledgers


@pytest.mark.parametrize(
    ("words", "amount", "parts"),
    [
        # shares sold: a 30, b 10; contracts sold: b 6
        ("TAF fee for proceed of 40 shares (2 trades) on 2024-02-15", "-0.40", {"a": "-0.30", "b": "-0.10"}),
        ("OPT TAF fee for proceed of 6 contracts", "-0.02", {"b": "-0.02"}),
        # proceeds of sales: a 3,000, b 3,000 of shares, and 600 of contracts
        ("REG fee for proceed of $6000", "-0.66", {"a": "-0.33", "b": "-0.33"}),
        ("OPT REG fee for proceed of $600", "-0.02", {"b": "-0.02"}),
        # contracts: a 2, b 6: 0.08 by 1 : 3
        ("ORF fee for 8 contracts", "-0.08", {"a": "-0.02", "b": "-0.06"}),
        ("Fees for 8 contracts", "-0.08", {"a": "-0.02", "b": "-0.06"}),
        # any other by all that was traded: a 3,000 + 300, b 3,000 + 600: 0.69 by 33 : 36
        ("CAT fee", "-0.69", {"a": "-0.33", "b": "-0.36"}),
    ],
)
def test_a_fee_is_divided_by_what_its_rule_counts(words: str, amount: str, parts: dict[str, str]) -> None:
    division = divide(with_trades(books(a={}, b={})), line("FEE", amount=amount, description=words), "")
    assert cash_of(division) == {name: dec(share) for name, share in parts.items()}


def test_a_fee_of_a_day_without_trades_is_mains() -> None:
    division = divide(books(a={"SPY": 1}), line("FEE", amount="-1.00", description="ADR fee"), "")
    assert cash_of(division) == {MAIN: dec("-1.00")}


# --- dividends and interest -------------------------------------------------------------------------------------------


def test_a_dividend_is_for_who_held_at_the_close_before_its_ex_date() -> None:
    ledgers = books(a={"SPY": 10}, main={"SPY": 5})
    ledgers.held["SPY"] = [("2024-02-01", {"a": dec(30), MAIN: dec(10)}), ("2024-02-14", {"b": dec(10)})]
    ledgers.accounts["b"] = SubAccount("b", "")
    # ex on the 14th: at the close of the 13th a had 30 and main 10, whoever holds now
    assert cash_of(divide(ledgers, line("DIV", "SPY", "40", "20.00"), "2024-02-14")) == {
        "a": dec("15.00"),
        MAIN: dec("5.00"),
    }
    assert cash_of(divide(ledgers, line("DIV", "SPY", "10", "5.00"), "2024-02-15")) == {"b": dec("5.00")}


def test_a_dividend_without_an_ex_date_is_told_where_the_shares_changed_hands() -> None:
    ledgers = books(a={"SPY": 10})
    assert divide(ledgers, line("DIV", "SPY", "10", "5.00", date=NEXT_DAY), "").doubt == ""
    ledgers.held["SPY"].insert(0, ("2024-02-14", {MAIN: dec(10)}))
    division = divide(ledgers, line("DIV", "SPY", "10", "5.00", date=NEXT_DAY), "")
    assert cash_of(division) == {"a": dec("5.00")}
    assert "ex-date is unknown" in division.doubt


def test_interest_goes_by_cash_and_is_charged_to_who_owes() -> None:
    ledgers = books(a={"cash": 3000}, b={"cash": -500}, main={"cash": 1000})
    assert cash_of(divide(ledgers, line("INT", amount="4.00"), "")) == {"a": dec("3.00"), MAIN: dec("1.00")}
    assert cash_of(divide(ledgers, line("INT", amount="-2.00"), "")) == {"b": dec("-2.00")}


def test_a_deposit_is_mains_without_a_doubt_and_what_nobody_knows_with_one() -> None:
    assert divide(books(a={"cash": 1}), line("CSD", amount="100"), "") == Division(
        {MAIN: LinePart(dec(0), dec(100), dec(100))}
    )
    strange = divide(books(a={"SPY": 1}), line("ZZZ", amount="-7"), "")
    assert cash_of(strange) == {MAIN: dec(-7)}
    assert "ZZZ" in strange.doubt


# --- shares and contracts ---------------------------------------------------------------------------------------------


def test_a_split_in_two_lines_gives_whole_shares_and_main_the_rest() -> None:
    ledgers = books(a={"SPY": 5}, b={"SPY": 3}, main={"SPY": 3})
    away = divide(ledgers, line("SPLIT", "SPY", "-11"), "")
    assert book(ledgers, away, "SPY") == {}
    # 3 for 2: 16.5 shares; 7.5 and 4.5 are 7 and 4 whole ones, and main has its 4.5 and both halves
    come = divide(ledgers, line("SPLIT", "SPY", "16.5"), "")
    assert book(ledgers, come, "SPY") == {"a": dec(7), "b": dec(4), MAIN: dec("5.5")}
    assert ledgers.accounts["a"].holdings["SPY"].average == dec(500) / 7  # 5 shares for 100 each
    assert ledgers.moving == []


def test_a_reverse_split_in_one_line_rescales_what_a_share_cost() -> None:
    ledgers = books(a={"SPY": 25}, main={"SPY": 10})
    # 1 for 10: 3.5 shares are left of 35; a has 2 whole ones, main the other 1.5
    division = divide(ledgers, line("SPLIT", "SPY", "-31.5"), "")
    assert book(ledgers, division, "SPY") == {"a": dec(2), MAIN: dec("1.5")}
    assert ledgers.accounts["a"].holdings["SPY"].average == dec(1250)


@pytest.mark.parametrize("lines", [["-14.5", "43"], ["28.5"]])
@pytest.mark.parametrize("announced", ["3/1", "", "2/1"])  # one is not of this line
def test_a_split_that_the_broker_rounds_gives_each_its_whole_shares(lines: list[str], announced: str) -> None:
    ledgers = books(a={"SPY": 9}, b={"SPY": 3}, main={"SPY": "2.5"})
    for quantity in lines:
        row = line("SPLIT", "SPY", quantity)
        ledgers.ratios[row.id] = announced
        holders = book(ledgers, divide(ledgers, row, ""), "SPY")
    # 3 for 1 of 9, 3 and 2.5; the broker gives 43 shares of 43.5, and cash for the half
    assert holders == {"a": dec(27), "b": dec(9), MAIN: dec(7)}


@pytest.mark.parametrize(("announced", "a"), [("", 0), ("1/10", 1)])
def test_of_a_split_that_several_ratios_explain_the_announced_one_counts(announced: str, a: int) -> None:
    ledgers = books(a={"SPY": 10}, main={"SPY": "42.928"})
    row = line("SPLIT", "SPY", "-47.928")  # five are left: 1 for 10 is 5.29, and 1 for 9 is 5.88
    ledgers.ratios[row.id] = announced
    holders = book(ledgers, divide(ledgers, row, ""), "SPY")
    assert (holders.get("a", dec(0)), holders[MAIN]) == (dec(a), dec(5 - a))


def test_of_a_split_that_leaves_less_than_a_share_who_trades_fractions_has_a_part() -> None:
    ledgers = trading_fractions(books(a={"SPY": 2}, b={"SPY": "13.458"}), "b")
    # 1 for 20 of 15.458 is 0.7729, of which 0.6729 are b's
    holders = book(ledgers, divide(ledgers, line("SPLIT", "SPY", "-14.6851"), ""), "SPY")
    assert holders == {"b": dec("0.6729"), MAIN: dec("0.1")}


def test_a_split_that_is_cut_to_nine_decimals_takes_no_share_from_who_has_whole_ones() -> None:
    ledgers = trading_fractions(books(a={"SPY": 3}, b={"SPY": "5.087"}, main={"SPY": 5}), "b")
    # 1 for 3 of 13.087 is 4.362333333…: a has 1 of its 3, and b 1.695666666…
    holders = book(ledgers, divide(ledgers, line("SPLIT", "SPY", "-8.724666667"), ""), "SPY")
    assert holders == {"a": dec(1), "b": dec("1.695666666"), MAIN: dec("1.666666667")}


def test_of_a_split_that_the_broker_rounds_the_fraction_is_less_and_whole_shares_are_not() -> None:
    ledgers = trading_fractions(books(a={"SPY": 9}, b={"SPY": "2.5"}), "b")
    row = line("SPLIT", "SPY", "22.5")  # 3 for 1 of 11.5 is 34.5: the broker gives 34, and cash for b's half
    ledgers.ratios[row.id] = "3/1"
    assert book(ledgers, divide(ledgers, row, ""), "SPY") == {"a": dec(27), "b": dec(7)}


def test_what_main_is_short_of_takes_nothing_from_who_holds_fractions() -> None:
    ledgers = trading_fractions(books(a={"SPY": 9}, b={"SPY": "1.5"}, main={"SPY": -1}), "b")
    assert book(ledgers, divide(ledgers, line("SPLIT", "SPY", "19"), ""), "SPY") == {  # 3 for 1 of 9.5
        "a": dec(27),
        "b": dec("4.5"),
        MAIN: dec(-3),
    }


def test_cash_for_a_fraction_is_whose_the_fraction_is() -> None:
    ledgers = books(a={"SPY": 7}, main={"SPY": "5.5"})
    division = divide(ledgers, line("CIL", "SPY", "-0.5", "33.00"), "")
    assert division.parts == {MAIN: LinePart(dec("-0.5"), dec("33.00"))}


PARENT = ("OLD", DAY, "1/3")


@pytest.mark.parametrize(
    ("announced", "quantity", "parts"),
    [
        # 1 for 3 of 10, 5 and 4 is 6.33, of which the broker gives 6: 3.33 are 3 whole ones, b trades fractions
        ([PARENT], "6", {"a": dec(3), "b": dec("1.666666666"), MAIN: dec("1.333333334")}),
        ([PARENT, ("OTHER", DAY, "1/3")], "6", {"a": dec(3), "b": dec("1.666666666"), MAIN: dec("1.333333334")}),
        ([("OLD", NEXT_DAY, "1/3"), PARENT], "6", {"a": dec(3), "b": dec("1.666666666"), MAIN: dec("1.333333334")}),
        ([("TWIN", DAY, "1/3"), PARENT], "6", {MAIN: dec(6)}),  # of two parents nobody knows which
        ([("OLD", NEXT_DAY, "1/3")], "8", {"a": dec(5), "b": dec("1.666666666"), MAIN: dec("1.333333334")}),
        ([PARENT], "8", {MAIN: dec(8)}),  # so many are not of what was held
        ([PARENT], "2 4", {"a": dec(3), "b": dec("1.666666666"), MAIN: dec("1.333333334")}),  # in two lines
        ([PARENT], "1 2 3", {"a": dec(3), "b": dec("1.666666666"), MAIN: dec("1.333333334")}),
        ([("TWIN", DAY, "1/3"), PARENT], "2 4", {MAIN: dec(6)}),
        ([], "6", {MAIN: dec(6)}),
    ],
)
def test_shares_of_a_spin_off_are_who_held_the_parent_before_its_ex_date(
    announced: list[tuple[str, str, str]], quantity: str, parts: dict[str, Decimal]
) -> None:
    ledgers = trading_fractions(books(a={"OLD": 10}, b={"OLD": 5}, main={"OLD": 4}), "b")
    ledgers.held["OLD"] = [("2024-02-27", ledgers.held["OLD"][0][1])]  # held since the day before
    ledgers.held["TWIN"] = [("2024-02-27", {"b": dec(19)})]
    ledgers.book("a", "OLD", LinePart(dec(5)))  # bought today, at the price without them
    held, doubts = dict[str, Decimal](), []
    for part in quantity.split():
        row = line("SPIN", "NEW", part)
        ledgers.spun[row.id] = announced
        division = divide(ledgers, row, "")
        held = book(ledgers, division, "NEW")
        doubts.append(division.doubt != "")  # of those that are not all yet it is told
    assert held == parts
    assert doubts == [*(True for _ in doubts[1:]), len(parts) == 1]


def test_a_new_name_moves_each_holding_with_what_it_cost() -> None:
    ledgers = books(a={"FB": 4}, main={"FB": "2.5"})
    assert book(ledgers, divide(ledgers, line("NC", "FB", "-6.5"), ""), "FB") == {}
    come = divide(ledgers, line("NC", "META", "6.5"), "")
    assert book(ledgers, come, "META") == {"a": dec(4), MAIN: dec("2.5")}
    assert ledgers.accounts["a"].holdings["META"].average == dec(100)


def test_a_dividend_that_was_earned_under_the_former_name_is_who_held_then() -> None:
    ledgers = books(a={"FB": 3}, b={"FB": 1})
    ledgers.now_ns += DAY_NS
    removal = divide(ledgers, line("NC", "FB", "-4", date=NEXT_DAY), "")
    for name, part in removal.parts.items():
        ledgers.book(name, "FB", part, NEXT_DAY)
    come = divide(ledgers, line("NC", "META", "4", date=NEXT_DAY), "")
    for name, part in come.parts.items():
        ledgers.book(name, "META", part, NEXT_DAY)
    ledgers.book("a", "META", LinePart(dec(-3)))  # a sells under the new name
    dividend = divide(ledgers, line("DIV", "META", "4", "8.00", date="2024-03-15"), NEXT_DAY)
    assert (cash_of(dividend), dividend.doubt) == ({"a": dec("6.00"), "b": dec("2.00")}, "")
    assert ledgers.holders_before("META", "2024-03-01") == {"b": dec(1)}


def test_who_buys_the_new_name_on_its_first_day_takes_no_dividend_that_was_earned_before() -> None:
    ledgers = books(a={"FB": 3}, b={})
    ledgers.now_ns += DAY_NS
    ledgers.book("b", "META", LinePart(dec(1), cost=dec(100)))  # before the lines of the new name
    for row in (line("NC", "FB", "-3", date=NEXT_DAY), line("NC", "META", "3", date=NEXT_DAY)):
        for name, part in divide(ledgers, row, "").parts.items():
            ledgers.book(name, row.symbol, part, NEXT_DAY)
    dividend = divide(ledgers, line("DIV", "META", "3", "6.00", date="2024-03-15"), NEXT_DAY)
    assert (cash_of(dividend), dividend.doubt) == ({"a": dec("6.00")}, "")
    assert ledgers.holders_before("META", "2024-03-15") == {"a": dec(3), "b": dec(1)}


def test_a_merger_for_cash_pays_each_for_its_shares() -> None:
    ledgers = books(a={"ATVI": 3}, b={"ATVI": 1})
    division = divide(ledgers, line("MA", "ATVI", "-4", "380.00"), "")
    assert cash_of(division) == {"a": dec("285.00"), "b": dec("95.00")}
    assert book(ledgers, division, "ATVI") == {}


def booked(ledgers: Ledgers, *lines: LedgerLine) -> None:
    """Book lines one after the other."""
    for row in lines:
        book(ledgers, divide(ledgers, row, ""), row.symbol)


LEAVES, COME = line("MA", "OLD", "-12"), line("MA", "NEW", "6")  # one for two, and 10.00 USD a share
PAYS = line("MA", "OLD", "0", "120.00")
IN_PARTS = [line("MA", *part) for part in (("OLD", "-7"), ("NEW", "3"), ("OLD", "-5"), ("NEW", "2"), ("NEW", "1"))]


@pytest.mark.parametrize(
    "lines",
    [
        [LEAVES, COME, PAYS],
        [LEAVES, PAYS, COME],
        [PAYS, LEAVES, COME],
        [*IN_PARTS, PAYS],
        [IN_PARTS[0], IN_PARTS[2], COME, PAYS],
        [LEAVES, *IN_PARTS[3:], IN_PARTS[1], PAYS],
    ],
)
def test_a_merger_whose_lines_come_in_parts_gives_each_its_shares_and_its_cash(lines: list[LedgerLine]) -> None:
    ledgers = books(a={"OLD": 5}, b={"OLD": 4}, main={"OLD": 3})
    booked(ledgers, *lines)
    assert ledgers.holders("OLD") == {}
    assert ledgers.holders("NEW") == {
        "a": dec(2),
        "b": dec(2),
        MAIN: dec(2),
    }  # 2.5 and 1.5: whole ones, the rest main's
    assert {name: account.cash for name, account in ledgers.accounts.items()} == {
        "a": dec("50.00"), "b": dec("40.00"), MAIN: dec("30.00")
    }  # fmt: skip
    costs = [holding.average * holding.qty for a in ledgers.accounts.values() for holding in a.holdings.values()]
    assert sum(costs) == 1200 or COME not in lines


CALL = "SPY240301C00400000"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        # a split of two for one halves the strikes and doubles the contracts
        ({"SPY240301C00400000": 2, "SPY240301C00410000": 1}, ("SPY240301C00200000", "SPY240301C00205000", 4, 2)),
        # other deliverables get another root
        ({"SPY240301C00400000": 1, "SPY240301P00400000": 1}, ("SPY1240301C00400000", "SPY1240301P00400000", 1, 1)),
    ],
)
def test_of_contracts_that_one_action_changes_each_is_its_holders(
    old: dict[str, int], new: tuple[str, str, int, int]
) -> None:
    (one, of_a), (other, of_b) = old.items()
    ledgers = books(a={one: of_a}, b={other: of_b})
    booked(ledgers, *(line("OPCA", symbol, str(-count)) for symbol, count in old.items()))
    booked(ledgers, line("OPCA", new[1], str(new[3])), line("OPCA", new[0], str(new[2])))
    assert (ledgers.holders(new[0]), ledgers.holders(new[1])) == ({"a": dec(new[2])}, {"b": dec(new[3])})


@pytest.mark.parametrize(("words", "b"), [("Name Change from GE to GX", 1), ("", 0)])
def test_of_two_new_names_of_as_many_shares_the_words_tell_or_main_has_them(words: str, b: int) -> None:
    ledgers = books(a={"FB": 4}, b={"GE": 4})
    booked(ledgers, line("NC", "FB", "-4"), line("NC", "GE", "-4"))
    come = divide(ledgers, line("NC", "GX", "4", description=words), "")
    assert quantities_of(come) == {"b" if b else MAIN: dec(4)}
    assert (come.doubt == "") == bool(b)


def test_two_new_names_of_one_holder_are_its_own_whichever_is_which() -> None:
    ledgers = books(a={"FB": 4, "GE": 4})
    booked(ledgers, *(line("NC", *part) for part in (("FB", "-4"), ("GE", "-4"), ("GX", "4"), ("META", "4"))))
    assert set(ledgers.accounts["a"].holdings) == {"GX", "META"}


def test_of_two_mergers_of_one_day_the_shares_come_at_their_own_announced_rate() -> None:
    ledgers = books(a={"CASH": 10}, b={"OLD": 20})
    for row in (line("MA", "CASH", "-10", "1000"), line("MA", "OLD", "-20")):
        book(ledgers, divide(ledgers, row, ""), row.symbol)
    come = line("MA", "NEW", "10")  # one for two of OLD, and as many as of CASH
    ledgers.ratios[come.id] = "1/2"
    assert book(ledgers, divide(ledgers, come, ""), "NEW") == {"b": dec(10)}


@pytest.mark.parametrize("call", [CALL, CALL.replace("SPY", "SPY1")])  # the other one was adjusted
def test_exercised_contracts_and_their_shares_are_their_holders(call: str) -> None:
    ledgers = books(a={call: 2}, b={call: 1})
    exercise = divide(ledgers, line("OPEXC", call, "-3"), "")
    assert book(ledgers, exercise, call) == {}
    # 300 shares at the strike of 400: 120,000 USD, two thirds of it a's
    come = divide(ledgers, line("OPTRD", "SPY", "300", "-120000.00", price="400"), "")
    assert cash_of(come) == {"a": dec("-80000.00"), "b": dec("-40000.00")}
    assert book(ledgers, come, "SPY") == {"a": dec(200), "b": dec(100)}
    assert ledgers.accounts["a"].holdings["SPY"].average == dec(400)


def test_contracts_that_lapse_are_their_holders_and_a_short_one_is_mains() -> None:
    ledgers = books(a={CALL: 2}, main={CALL: -1})
    assert quantities_of(divide(ledgers, line("OPEXP", CALL, "-2"), "")) == {"a": dec(-2)}
    assert quantities_of(divide(ledgers, line("OPASN", CALL, "1"), "")) == {MAIN: dec(1)}


@pytest.mark.parametrize(("count", "a", "main"), [(1, 0, 1), (2, 0, 2), (3, 1, 2), (4, 2, 2)])
def test_an_exercise_of_some_contracts_is_the_persons_who_asked_for_it(count: int, a: int, main: int) -> None:
    # the broker exercises what no order holds: a's two are held by its sale
    division = divide(books(a={CALL: 2}, main={CALL: 2}), line("OPEXC", CALL, str(-count)), "")
    parts = {"a": dec(-a), MAIN: dec(-main)}
    assert quantities_of(division) == {name: quantity for name, quantity in parts.items() if quantity}


def test_a_line_of_contracts_that_nobody_holds_books_nothing_and_is_told() -> None:
    division = divide(books(a={"SPY": 1}), line("OPEXP", CALL, "-2"), "")
    assert division.parts == {}
    assert "nobody holds any" in division.doubt


# --- fractions of shares ----------------------------------------------------------------------------------------------


def trading_fractions(ledgers: Ledgers, *names: str) -> Ledgers:
    """The books, in which these have taken orders of fractions."""
    for name in names:
        ledgers.accounts[name].fractions = True
    return ledgers


def test_of_a_reverse_split_whole_parts_are_whole() -> None:
    ledgers = books(a={"SPY": 3}, b={"SPY": 6})  # 1 for 3: a third of 3 is 1, whatever a third is in decimals
    assert book(ledgers, divide(ledgers, line("SPLIT", "SPY", "-6"), ""), "SPY") == {"a": dec(1), "b": dec(2)}


def test_the_last_decimal_of_a_split_is_nobody_elses() -> None:
    ledgers = trading_fractions(books(a={"SPY": 10}, b={"SPY": 10}), "a", "b")
    # 1 for 3 of 20 is 6.666666667 at the broker; each has 3.333333333, and one has what is left
    parts = book(ledgers, divide(ledgers, line("SPLIT", "SPY", "-13.333333333"), ""), "SPY")
    assert parts == {"a": dec("3.333333333"), "b": dec("3.333333334")}


def test_cash_for_a_fraction_is_by_whose_fractions_it_is_for() -> None:
    ledgers = trading_fractions(books(a={"SPY": "1.75"}, b={"SPY": "2.5"}, c={"SPY": 4}), "a", "b")
    # 8.25 shares: a quarter of one is paid, three fifths of it a's (0.75 of 1.25)
    division = divide(ledgers, line("CIL", "SPY", "-0.25", "25.00"), "")
    assert cash_of(division) == {"a": dec("15.00"), "b": dec("10.00")}
    assert book(ledgers, division, "SPY") == {"a": dec("1.6"), "b": dec("2.4"), "c": dec(4)}


@pytest.mark.parametrize("names", ["0", "-0.5"])  # a share's fraction that the line is for
def test_cash_for_a_fraction_that_nobody_has_is_mains(names: str) -> None:
    division = divide(books(a={"SPY": 3}), line("CIL", "SPY", names, "12.00"), "")
    assert division.parts == {MAIN: LinePart(amount=dec("12.00"))}


@pytest.mark.parametrize(
    ("main", "ratio", "split", "fraction", "cash"),
    [
        # 1 for 10 of a's 25 and b's 12.5: 2.5 and 1.25. The broker gives 3 of 3.75: b has 1, as 2 are a's
        ("0", "1/10", "-34.5", "0", {"a": "66.67", "b": "33.33"}),  # of the three quarters that are paid a half is a's
        ("0", "1/10", "-34.5", "-0.75", {"a": "66.67", "b": "33.33"}),
        ("0", "1/10", "-33.75", "-0.75", {"a": "66.67", "b": "33.33"}),  # it gives 3.75, and takes the fraction
        # with main's 2 it gives 3 of 3.95: main has nothing of its 0.2; with 7 it gives 4 of 4.45, of which b has its
        # 1.25, and main 0.75, which is more than its 0.7: what is paid is for a's half alone
        ("2", "1/10", "-36.5", "0", {"a": "52.63", "b": "26.32", MAIN: "21.05"}),
        ("7", "1/10", "-40.5", "0", {"a": "100"}),
    ],
)
def test_cash_for_a_fraction_of_new_shares_is_for_who_got_less_than_its_due(
    main: str, ratio: str, split: str, fraction: str, cash: dict[str, str]
) -> None:
    ledgers = trading_fractions(books(a={"SPY": 25}, b={"SPY": "12.5"}, main={"SPY": main}), "b")
    row = line("SPLIT", "SPY", split)
    ledgers.ratios[row.id] = ratio
    book(ledgers, divide(ledgers, row, ""), "SPY")
    division = divide(ledgers, line("CIL", "SPY", fraction, "100.00"), "")
    assert {name: part for name, part in cash_of(division).items() if part} == {n: dec(c) for n, c in cash.items()}
    there = book(ledgers, division, "SPY")
    assert sum(there.values()) == int(sum(there.values()))
    assert there["a"] == 2


def test_a_dividend_is_divided_by_fractions() -> None:
    ledgers = books(a={"SPY": "0.75"}, b={"SPY": "0.25"})
    ledgers.now_ns += 86_400 * 10**9
    assert cash_of(divide(ledgers, line("DIV", "SPY", "1", "1.00"), "2024-02-29")) == {
        "a": dec("0.75"),
        "b": dec("0.25"),
    }


def test_shares_that_partly_go_never_exceed_what_one_has() -> None:
    ledgers = trading_fractions(books(a={"SPY": "0.4"}, b={"SPY": "2.3"}), "a", "b")
    holders = book(ledgers, divide(ledgers, line("MA", "SPY", "-2.5", "250.00"), ""), "SPY")
    assert sum(holders.values()) == dec("0.2")
    assert all(quantity > 0 for quantity in holders.values())


# --- what is forgotten ------------------------------------------------------------------------------------------------


def test_of_a_program_s_old_orders_without_a_fill_the_newest_hundred_stay_and_those_that_filled() -> None:
    ledgers = books(a={"cash": 1000}, b={"cash": 1000})
    for name, days, count, fills in (("a", 4, 150, {}), ("a", 4, 5, FILLED), ("a", 2, 30, {}), ("b", 20, 3, {})):
        for _ in range(count):
            order = GatewayOrder(name, f"n{len(ledgers.orders)}", "SPY", "buy", "canceled", NOON_NS - days * DAY_NS)
            order.row, order.fills = {"updated_at": stamp(order.created_ns)}, fills
            ledgers.keep(order)
    ledgers.forget()
    kept = Counter((o.account, (NOON_NS - o.created_ns) // DAY_NS, bool(o.fills)) for o in ledgers.orders.values())
    # the 30 of two days ago are among the newest hundred of a
    assert kept == {("a", 4, False): 70, ("a", 4, True): 5, ("a", 2, False): 30, ("b", 20, False): 3}
