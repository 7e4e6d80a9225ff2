"""A person's shares beside a daily desk's own, through a split and a dividend, at the loopback Alpaca.

Expected values: SPY splits two for one at 04:00, or pays 0.50 USD a share; the server's own figures of both.
"""

from __future__ import annotations

from decimal import ROUND_FLOOR, Decimal
from pathlib import Path

import pytest

from simulator.prices.corporate_actions import Dividend, Split
from tests.support.desks.daily_day import BEGIN, bought, stop
from tests.support.desks.daily_stage import HALF_DAY, NEXT_DAY, daily_stage, jump, made_up, swapping
from tests.support.desks.stage import Stage, Table, new_york_ns

IGNORE: Table = {"broker": {"foreign_orders": "ignore"}}
OTHERS = 40


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the swapping policy."""
    return swapping(tmp_path_factory.mktemp("swapping"))


def both_bought(desk: Stage) -> int:
    """The person's shares are there before the desk's first start; returns how many it bought itself."""
    desk.server.by_hand("place", symbol="SPY", qty=str(OTHERS), side="buy", type="market", time_in_force="opg")
    bought(desk)
    shares = desk.held()["SPY"] - OTHERS
    books = desk.books()
    assert (books.state.book.positions["SPY"].quantity, books.state.broker.foreign_held) == (shares, {"SPY": OTHERS})
    return shares


def test_a_split_over_night_doubles_each_s_shares_and_the_desk_sells_its_own(models: Path, tmp_path: Path) -> None:
    days = made_up(splits=(Split("SPY", NEXT_DAY, Decimal(2)),))
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, IGNORE, days=days) as desk:
        shares = both_bought(desk)
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_true(lambda: bool(desk.held().get("QQQ")), "QQQ is bought")
        desk.until_time(new_york_ns(NEXT_DAY, "09:45"))
        stop(desk)
        sells = [(post["symbol"], int(post["qty"])) for post in desk.posts() if post["side"] == "sell"]
        assert sells == [("SPY", 2 * shares)]
        assert desk.held()["SPY"] == 2 * OTHERS
        state = desk.books().state
        assert (state.broker.foreign_held, state.risk.halt) == ({"SPY": 2 * OTHERS}, None)
        assert state.book.cash == desk.account.cash


def test_a_dividend_is_earned_for_the_desk_s_own_shares_and_is_a_transfer_for_the_others(
    models: Path, tmp_path: Path
) -> None:
    days = made_up(dividends=(Dividend("SPY", NEXT_DAY, Decimal("0.50")),))
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, IGNORE, days=days) as desk:
        shares = both_bought(desk)
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_true(
            lambda: desk.read_log("reconciled") != [] and "DIV" in str(desk.account.activities), "it is paid"
        )
        desk.until_time(new_york_ns(NEXT_DAY, "09:15"))
        stop(desk)
        books = desk.books()
        (move,) = [row for row in books.moves if row["reason"] == "dividend" and Decimal(row["realized_usd"])]
        assert Decimal(move["realized_usd"]) == shares * Decimal("0.50")
        assert (books.state.book.cash, books.state.risk.halt) == (desk.account.cash, None)
        (line,) = [
            one for event in desk.journaled("BrokerReported") for one in event["activities"] if one["kind"] == "DIV"
        ][-1:]
        assert line["ex_date"] == NEXT_DAY


def test_a_split_and_a_dividend_of_one_morning_are_each_s_own_over_kills_in_between(
    models: Path, tmp_path: Path
) -> None:
    happen = {
        "splits": (Split("SPY", NEXT_DAY, Decimal(2)),),
        "dividends": (Dividend("SPY", NEXT_DAY, Decimal("0.50")),),
    }
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, IGNORE, days=made_up(**happen)) as desk:
        shares = both_bought(desk)
        jump(desk, NEXT_DAY, BEGIN)
        for seconds in (0.7, 1.9, 4.0):
            daemon = desk.start()
            desk.clock.pass_s(seconds)
            daemon.kill()
            daemon.wait(60)
        desk.start()
        desk.until_true(lambda: bool(desk.held().get("QQQ")), "QQQ is bought")
        desk.until_time(new_york_ns(NEXT_DAY, "09:45"))
        stop(desk)
        sells = [(post["symbol"], int(post["qty"])) for post in desk.posts() if post["side"] == "sell"]
        assert (sells, desk.held()["SPY"]) == ([("SPY", 2 * shares)], 2 * OTHERS)
        books = desk.books()
        earned = sum(Decimal(row["realized_usd"]) for row in books.moves if row["reason"] == "dividend")
        reports = [event["activities"] for event in desk.journaled("BrokerReported")]
        dividend = next(Decimal(one["amount"]) for lines in reports for one in lines if one["kind"] == "DIV")
        assert earned == (dividend * shares / (shares + OTHERS)).quantize(Decimal("0.01"), ROUND_FLOOR)
        assert (books.state.broker.foreign_held, books.state.risk.halt) == ({"SPY": 2 * OTHERS}, None)
        assert books.state.book.cash == desk.account.cash
