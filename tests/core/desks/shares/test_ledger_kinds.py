"""Each kind of line that Alpaca's ledger can have (its changelog and its list of activity types, November 2026).

A row is one kind: what the broker books by its list, and so what the desk's book has to show. 60 AAA and 10 BBB were
bought at 100.00 of 10,000 USD, 3,000 USD are cash; sums are computed by hand.
"""

from __future__ import annotations

from decimal import Decimal

import pytest
from msgspec.structs import replace

from daemon.core import events as ev
from daemon.core.book import session_loss
from tests.support.core.account import line
from tests.support.core.daily_desk import DailyDesk
from tests.support.core.desk import TUESDAY, alarms

GAIN, MOVED = "realised", "transferred"
UNKNOWN = ["unknown_activity"]
CASH = (
    ("FEE", "-0.31", GAIN, []),  # also its sub-types ICF and EPI
    ("DIV", "6.00", GAIN, []),  # also its sub-type ROC
    ("ROC", "6.00", GAIN, []),
    ("CGD", "4.20", GAIN, []),
    ("DVF", "-1.05", GAIN, []),
    ("INT", "12.40", GAIN, []),
    ("INTTW", "-3.10", GAIN, []),  # tax on interest, monthly beside INT
    ("WH", "-3.10", GAIN, []),
    ("CORR", "-2.00", GAIN, []),
    ("CORR", "2.00", GAIN, []),
    ("OPCSH", "15.00", GAIN, []),
    ("REO", "12.50", GAIN, []),  # REOC: cash of a reorganisation
    ("VOF", "12.50", GAIN, []),
    ("CSD", "500.00", MOVED, []),
    ("CSD", "-500.00", MOVED, []),  # a deposit that was returned
    ("CSW", "-500.00", MOVED, []),
    ("CSW", "500.00", MOVED, []),  # a withdrawal that was returned
    ("JNLC", "500.00", MOVED, []),
    ("JNLS", "0", MOVED, []),
    ("ACATC", "-500.00", MOVED, []),
    ("ACATS", "-25.00", MOVED, []),
    *((kind, "-50.00", GAIN, UNKNOWN) for kind in ("SEG", "DTCS", "MEM", "EXTRD", "ALLOC", "CSR", "ECEXP")),
    *((kind, "50.00", MOVED, UNKNOWN) for kind in ("INVPNL", "FXTRD", "FXCNV", "FIMAT", "OPCA", "OF_TOMORROW")),
)
ShareRow = tuple[str, int, str, dict[str, int], str, list[str]]
SHARES: tuple[ShareRow, ...] = (  # kind, shares, cash, what is held after it, realised, alarms
    ("REO", -60, "7200", {"BBB": 10}, "1200", []),  # REOSC: shares for cash, 60 x 20 above the cost
    ("REO", -20, "1900", {"AAA": 40, "BBB": 10}, "-100", []),  # a part of them, as in a partial call
    ("VOF", -60, "6300", {"BBB": 10}, "300", []),
    ("REORG", -60, "0", {"BBB": 10}, "-6000", ["shares_renamed", "daily_loss"]),  # sub-type WRM: removed as worthless
    ("REORG", -2, "0", {"AAA": 58, "BBB": 10}, "-200", ["shares_renamed"]),
)  # fmt: skip


def desk_with_shares() -> DailyDesk:
    d = DailyDesk().fund().holds(AAA=60, BBB=10)
    d.begin(TUESDAY)
    d.state = replace(d.state, broker=replace(d.state.broker, began_ns=1, account="A"))
    return d


def reported(d: DailyDesk, activity: ev.Activity, cash: str, shares: dict[str, int]) -> list[str]:
    """A report of the account as the broker has it after this line; the alarms that it raises."""
    now = d.state.now_ns
    positions = tuple(ev.BrokerPosition(symbol, Decimal(count), Decimal(100)) for symbol, count in shares.items())
    return alarms(d.put(ev.BrokerReported(now, now, "A", Decimal(cash), "", positions, (), (), (), (activity,))))


@pytest.mark.parametrize(("kind", "amount", "booked_as", "raised"), CASH)
def test_each_kind_of_cash_is_booked_once_and_the_broker_s_total_agrees(
    kind: str, amount: str, booked_as: str, raised: list[str]
) -> None:
    d, cash = desk_with_shares(), str(3000 + Decimal(amount))
    assert reported(d, line(kind, amount=amount), cash, {"AAA": 60, "BBB": 10}) == raised
    assert reported(d, line(kind, amount=amount), cash, {"AAA": 60, "BBB": 10}) == []
    book = d.state.book
    gained, transfer = (Decimal(amount), 0) if booked_as == GAIN else (0, Decimal(amount))
    assert (book.cash, book.realized, book.transfers) == (Decimal(cash), gained, transfer)
    assert (d.state.risk.reconciled, d.state.risk.halt) == (True, None)
    assert session_loss(book) == pytest.approx(-float(gained) / 10_000, abs=1e-9)  # of which a transfer is no part


@pytest.mark.parametrize(("kind", "count", "amount", "left", "gain", "raised"), SHARES)
def test_each_kind_that_takes_shares_realises_what_came_for_them(
    kind: str, count: int, amount: str, left: dict[str, int], gain: str, raised: list[str]
) -> None:
    d, cash = desk_with_shares(), str(3000 + Decimal(amount))
    assert reported(d, line(kind, "AAA", count, amount), cash, left) == raised
    assert (d.held, d.state.book.realized, d.state.book.cash) == (left, Decimal(gain), Decimal(cash))
    assert (d.state.risk.reconciled, d.state.broker.suspicion) == (True, None)


def test_worthless_shares_are_a_loss_of_the_day() -> None:
    d = desk_with_shares()
    reported(d, line("REORG", "AAA", -60), "3000", {"BBB": 10})
    assert session_loss(d.state.book) == pytest.approx(0.6)  # 6,000 of 10,000 USD


def test_cash_of_an_unknown_kind_denies_new_risk_only_where_the_broker_s_total_disagrees() -> None:
    d = desk_with_shares()
    assert reported(d, line("OF_TOMORROW", amount="-50"), "2940", {"AAA": 60, "BBB": 10}) == UNKNOWN
    assert (d.state.book.cash, d.state.risk.reconciled) == (Decimal(2950), False)  # 10 USD are still unexplained


def test_shares_that_are_transferred_in_are_judged_as_a_person_s() -> None:
    d = desk_with_shares()
    assert reported(d, line("JNLS", "CCC", 5), "3000", {"AAA": 60, "BBB": 10, "CCC": 5}) == []
    assert (d.held, d.state.risk.reconciled) == ({"AAA": 60, "BBB": 10}, False)
    assert d.state.broker.suspicion is not None
    assert d.state.broker.suspicion.differences == ("CCC: broker 5, book 0",)
