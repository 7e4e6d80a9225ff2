"""A daily desk whose thousand dollars buy parts of shares, at the loopback Alpaca.

The policy wants ALL_SPY from cash and ALL_QQQ while it holds SPY; expected values are the server's own books and log.
"""

from __future__ import annotations

import dataclasses
import math
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from daemon.cli import ctl
from simulator.trading.venue import Rules
from tests.support.desks.daily_day import BEGIN, bought, stop
from tests.support.desks.daily_stage import HALF_DAY, IN_FULL, NEXT_DAY, daily_stage, jump, swapping
from tests.support.desks.live_desk import differences
from tests.support.desks.stage import Stage, new_york_ns


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the swapping policy."""
    return swapping(tmp_path_factory.mktemp("swapping"))


def rules(**changes: Any) -> Rules:
    """What fills at once, with changes."""
    return dataclasses.replace(IN_FULL, **changes)


@pytest.mark.parametrize("how", ["none", "fill", "order"])
def test_a_small_desk_buys_and_swaps_parts_of_shares_however_cash_is_rounded(
    models: Path, tmp_path: Path, how: Any
) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, cash=1000, rules=rules(cash_rounding=how)) as desk:
        bought(desk)
        shares = desk.held()["SPY"]
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_true(lambda: desk.held().get("SPY") is None, "SPY is sold")
        desk.until_time(new_york_ns(NEXT_DAY, "09:50"))
        stop(desk)
        (bought_first, *sales, bought_then) = [
            (post["symbol"], post["side"], post["qty"], post["time_in_force"]) for post in desk.posts()
        ]
        whole, part = str(shares).split(".")
        assert bought_first == ("SPY", "buy", str(shares), "day")
        # no auction takes a fraction: it goes beside the whole shares, for the day
        assert sorted(sales) == [("SPY", "sell", f"0.{part}", "day"), ("SPY", "sell", whole, "opg")]
        assert bought_then == ("QQQ", "buy", str(desk.held()["QQQ"]), "day")
        books = desk.books()
        assert differences(books, desk.account) == []
        assert books.state.risk.halt is None
        assert ctl.main(["verify", "--state-dir", str(desk.state_dir)]) == 0


@pytest.mark.parametrize("cash", [5_000, 1_000_000])
def test_an_account_of_any_size_is_invested_and_its_book_has_the_fees_that_the_broker_books_by_the_day(
    models: Path, tmp_path: Path, cash: int
) -> None:
    taf, reg, cat = map(Decimal, ("0.000166", "0.0000278", "0.000048"))
    fees = rules(taf_per_share=taf, reg_rate=reg, cat_per_share=cat)
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, cash=cash, rules=fees) as desk:
        bought(desk)
        (first,) = [trade for trade in desk.account.trades if trade.execution_id]
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_true(lambda: bool(desk.held().get("QQQ")), "QQQ is bought")
        desk.until_true(lambda: len(fee_amounts(desk)) == 4, "the day's fees are booked")
        desk.until_true(lambda: len(fee_lines(desk)) == 4, "the desk is told")
        stop(desk)
        books, trades = desk.books(), [trade for trade in desk.account.trades if trade.execution_id]
        second = [trade for trade in trades if trade is not first]
        shares_sold = -sum(trade.quantity for trade in second if trade.quantity < 0)
        proceeds = -sum(trade.quantity * trade.price for trade in second if trade.quantity < 0)
        volume = sum(abs(trade.quantity) for trade in second)
        exact = (first.quantity * cat, shares_sold * taf, proceeds * reg, volume * cat)
        cents = [Decimal(math.ceil(100 * usd)) / 100 for usd in exact]
        assert fee_amounts(desk) == cents
        assert books.state.book.fees == sum(cents)
        assert differences(books, desk.account) == []
        worth = desk.held()["QQQ"] * trades[-1].price
        assert worth / books.state.book.equity > Decimal("0.98")  # all of it is wanted


def fee_amounts(desk: Stage) -> list[Decimal]:
    """The fees that the server booked, USD."""
    rows = desk.server.call(lambda: list(desk.account.activities))
    return [-Decimal(row.fields["net_amount"]) for row in rows if row.fields["activity_type"] == "FEE"]


def fee_lines(desk: Stage) -> set[str]:
    """Ids of the fees in the reports that the desk journaled."""
    reports = desk.journaled("BrokerReported")
    return {line["id"] for report in reports for line in report["activities"] if line["kind"] == "FEE"}


def test_a_fraction_that_fills_in_parts_of_nine_decimals_is_booked_to_the_last(models: Path, tmp_path: Path) -> None:
    parts = rules(fractions_in_parts=True, cash_rounding="fill")
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, cash=1000, rules=parts) as desk:
        desk.start()
        desk.until_true(lambda: any(not o.open for o in desk.account.orders.values()), "the buy is over")
        desk.until_time(new_york_ns(HALF_DAY, "10:15"))
        stop(desk)
        books = desk.books()
        assert len(books.fills) > 3
        assert str(desk.held()["SPY"]) == str(books.state.book.positions["SPY"].quantity)
        assert differences(books, desk.account) == []
        assert ctl.main(["verify", "--state-dir", str(desk.state_dir)]) == 0


def test_of_a_share_that_is_not_fractionable_a_small_desk_buys_whole_ones(models: Path, tmp_path: Path) -> None:
    whole = rules(not_fractionable=frozenset({"SPY"}))
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, cash=1000, rules=whole) as desk:
        bought(desk)
        assert desk.held() == {"SPY": 1}
        assert [post["qty"] for post in desk.posts()][-1] == "1"
        assert differences(desk.books(), desk.account) == []
