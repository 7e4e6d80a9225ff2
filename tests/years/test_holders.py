"""Who holds what by the server's trades: worked out by hand."""

from __future__ import annotations

from decimal import Decimal

import pytest

from daemon.alpaca_api.books import PositionChange
from tests.years.holders import Holders, fold


def change(quantity: str, price: str = "0", order: str = "", symbol: str = "AAA") -> PositionChange:
    return PositionChange(symbol, Decimal(quantity), Decimal(price), 0, order)


def shares_of(*trades: PositionChange) -> tuple[dict[str, Decimal], dict[str, Decimal]]:
    """What the desk and all have of each symbol; orders of the desk begin with "d"."""
    now = fold(Holders({}, {}), trades, lambda order_id: order_id.startswith("d"))
    return dict(now.own), dict(now.total)


@pytest.mark.parametrize(
    ("desk_shares", "foreign_shares", "desk", "total"),
    [
        (8, 63, 4, 35),  # 1 for 2: 4 and 31.5, of which half a share is paid out
        (9, 62, 4, 35),  # 4.5 and 31
        (9, 63, 4, 36),  # 4.5 and 31.5: whole shares, and the one left over is the other's
        (9, 0, 4, 4),
        (0, 9, 0, 4),
    ],
)
def test_a_reverse_split_leaves_the_desk_half_of_its_own(
    desk_shares: int, foreign_shares: int, desk: int, total: int
) -> None:
    whole = Decimal(desk_shares + foreign_shares)
    trades = [change(str(desk_shares), "100", "d1"), change(str(foreign_shares), "100", "p1"), change(str(-whole / 2))]
    if whole % 2:
        trades.append(change("-0.5", "200"))
    assert shares_of(*trades) == ({"AAA": Decimal(desk)}, {"AAA": Decimal(total)})


@pytest.mark.parametrize(
    ("desk_shares", "foreign_shares", "payout", "desk", "total"),
    [
        ("15.5", "0", "0", "1.55", "1.55"),  # one for ten, of a desk that counts fractions
        ("15.5", "0", "0.55", "1", "1"),
        ("9", "4", "0.3", "0.6", "1"),  # 0.9 and 0.4: the desk's fraction goes first
        ("20", "4", "0.4", "2", "2"),  # 2 and 0.4: the fraction is the other's
        ("0.000000015", "0", "0", "0.000000002", "0.000000002"),  # the broker rounds what is the desk's alone
    ],
)
def test_a_desk_of_fractions_keeps_them_until_they_are_paid_out(
    desk_shares: str, foreign_shares: str, payout: str, desk: str, total: str
) -> None:
    before = Decimal(desk_shares) + Decimal(foreign_shares)
    after = Decimal(total) + Decimal(payout)
    trades = [change(desk_shares, "100", "d1"), change(foreign_shares, "100", "p1"), change(str(after - before))]
    trades += [change(f"-{payout}", "1000")] if Decimal(payout) else []
    now = fold(Holders({}, {}), trades, lambda order_id: order_id.startswith("d"), unit=Decimal("1e-9"))
    assert (now.own["AAA"], now.total["AAA"]) == (Decimal(desk), Decimal(total))


def test_a_new_name_takes_both_s_shares_along() -> None:
    trades = change("50", "100", "d1"), change("100", "100", "p1"), change("-150"), change("150", symbol="BBB")
    assert shares_of(*trades) == ({"AAA": Decimal(0), "BBB": Decimal(50)}, {"AAA": Decimal(0), "BBB": Decimal(150)})


@pytest.mark.parametrize(("foreign_shares", "desk", "total"), [(0, "7.5", "7.5"), (7, "7", "11")])
def test_a_merger_gives_each_the_new_shares_for_its_own(foreign_shares: int, desk: str, total: str) -> None:
    whole = 15 + foreign_shares  # at one for two, and 3 USD each; the desk counts whole shares
    trades = [change("15", "100", "d1")]
    trades += [change(str(foreign_shares), "100", "p1")] if foreign_shares else []
    trades += [change(str(-whole), "3"), change(str(Decimal(whole) / 2), symbol="BBB")]
    now = shares_of(*trades)
    assert now == ({"AAA": Decimal(0), "BBB": Decimal(desk)}, {"AAA": Decimal(0), "BBB": Decimal(total)})


def test_a_merger_for_cash_and_an_exercise_leave_no_shares_to_inherit() -> None:
    option = "SPY240621C00500000"
    taken_over = change("15", "100", "d1"), change("-15", "100"), change("4", "50", "p1", symbol="BBB")
    assert shares_of(*taken_over)[0] == {"AAA": Decimal(0), "BBB": Decimal(0)}
    exercised = change("2", "1", "d1", symbol=option), change("-2", symbol=option), change("200", "500", symbol="SPY")
    assert shares_of(*exercised)[0] == {option: Decimal(0), "SPY": Decimal(200)}


def test_a_spin_off_gives_each_its_part_of_the_new_shares() -> None:
    trades = change("15", "100", "d1"), change("7", "100", "p1"), change("5.5", symbol="KID")
    now = fold(Holders({}, {}), trades, lambda order_id: order_id == "d1", parents={"KID": "AAA"})
    assert (now.own["KID"], now.total["KID"]) == (Decimal(3), Decimal("5.5"))  # 3.75 and 1.75
    assert now.own["AAA"] == 15


def test_who_sells_of_the_desk_s_shares_disturbs_them() -> None:
    trades = [change("50", "100", "d1"), change("-10", "100", "p1")]
    assert fold(Holders({}, {}), trades, lambda order_id: order_id == "d1").disturbed == {"AAA"}
