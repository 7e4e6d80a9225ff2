"""A split over night whose ledger line, or whose adjusted bars, come late: a daily desk at the loopback Alpaca.

So do the lines of a merger and a spin-off. Expected values: SPY splits two for one at 04:00; the policy wants ALL_QQQ
while it holds SPY. Books are compared with the server's own at the end.
"""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from simulator.prices.corporate_actions import Dividend, Merger, SpinOff, Split
from tests.support.desks.daily_day import BEGIN, bought, stop
from tests.support.desks.daily_stage import HALF_DAY, NEXT_DAY, daily_stage, jump, made_up, swapping
from tests.support.desks.live_desk import differences
from tests.support.desks.stage import Stage, new_york_ns

LATE = "11:00"


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the swapping policy."""
    return swapping(tmp_path_factory.mktemp("swapping"))


def sales(desk: Stage) -> Decimal | int:
    """Shares of SPY that were ordered to be sold."""
    return sum(Decimal(post["qty"]) for post in desk.posts() if (post["symbol"], post["side"]) == ("SPY", "sell"))


def alarms(desk: Stage) -> set[str]:
    return {str(line["alarm"]) for line in desk.read_log("alarm")}


def test_a_split_whose_line_comes_after_the_open_sells_nothing_and_is_booked_when_it_comes(
    models: Path, tmp_path: Path
) -> None:
    days = made_up(splits=(Split("SPY", NEXT_DAY, Decimal(2)),))
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, days=days) as desk:
        bought(desk)
        shares = desk.held()["SPY"]
        until_ns = new_york_ns(NEXT_DAY, LATE)
        desk.server.faults.add("action_line_late", until_ns=until_ns)
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_time(until_ns)
        desk.until_true(lambda: desk.books().state.risk.reconciled, "book and broker agree")
        stop(desk)
        books = desk.books()
        assert (sales(desk), books.state.risk.halt) == (0, None)
        assert books.state.book.positions["SPY"].quantity == 2 * shares
        assert {"split_awaited", "basket_missed"} <= alarms(desk)
        (missed,) = [line["detail"] for line in desk.read_log("alarm") if line["alarm"] == "basket_missed"]
        assert "the broker's ledger does not tell the split of SPY yet" in missed
        assert differences(books, desk.account) == []


def test_bars_that_are_adjusted_after_the_ledger_s_line_are_waited_for_before_a_decision(
    models: Path, tmp_path: Path
) -> None:
    days = made_up(splits=(Split("SPY", NEXT_DAY, Decimal(4)),))
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, days=days) as desk:
        bought(desk)
        shares = desk.held()["SPY"]
        until_ns = new_york_ns(NEXT_DAY, "09:08")
        where = {"symbol": "SPY"}
        desk.server.faults.add("day_bars_unadjusted", until_ns=until_ns, where=where)
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_true(lambda: not desk.held().get("SPY"), "SPY is sold")
        desk.until_time(new_york_ns(NEXT_DAY, "09:45"))
        stop(desk)
        (adjusted,) = [event for event in desk.journaled("HistoryAdjusted") if event["time_ns"] >= until_ns]
        due = desk.journaled("RebalanceDue")[-1]
        assert adjusted["time_ns"] <= due["time_ns"]
        assert sales(desk) == 4 * shares
        assert differences(desk.books(), desk.account) == []


ACTIONS: dict[str, dict[str, object]] = {
    "a merger for cash": {"mergers": (Merger("SPY", NEXT_DAY, Decimal("505.25")),)},
    "a merger for other shares": {"mergers": (Merger("SPY", NEXT_DAY, new="IWM", ratio=Decimal("2.5")),)},
    "a spin-off": {"spin_offs": (SpinOff("SPY", NEXT_DAY, "SPYS", Decimal("0.5"), 0.2),)},
}


@pytest.mark.parametrize("action", ACTIONS)
def test_a_merger_or_a_spin_off_whose_lines_come_after_the_open_halts_nothing(
    models: Path, tmp_path: Path, action: str
) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, days=made_up(**ACTIONS[action])) as desk:
        bought(desk)
        until_ns = new_york_ns(NEXT_DAY, LATE)
        desk.server.faults.add("action_line_late", until_ns=until_ns)
        jump(desk, NEXT_DAY, BEGIN)
        daemon = desk.start()
        desk.until_time(new_york_ns(NEXT_DAY, "09:10"))
        daemon.kill()
        daemon.wait(10)
        desk.start()
        desk.until_time(until_ns)
        assert desk.halts() == []
        desk.until_true(lambda: desk.books().state.risk.reconciled, "book and broker agree")
        stop(desk)
        books = desk.books()
        assert (sales(desk), books.state.risk.halt) == (0, None)
        assert {"shares_renamed", "basket_missed"} <= alarms(desk)
        assert differences(books, desk.account) == []


def test_a_dry_run_books_a_split_and_a_dividend_on_their_ex_date_and_trades_the_new_shares(
    models: Path, tmp_path: Path
) -> None:
    paid = Dividend("SPY", NEXT_DAY, Decimal("1.25"), paid=NEXT_DAY)
    days = made_up(splits=(Split("SPY", NEXT_DAY, Decimal(3)),), dividends=(paid,))
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, days=days) as desk:
        desk.start("--dry-run")
        desk.until_true(lambda: desk.journaled("OrderFilled") != [], "a fill on paper")
        stop(desk)
        shares, equity = desk.books().state.book.positions["SPY"].quantity, desk.books().state.book.equity
        jump(desk, NEXT_DAY, BEGIN)
        daemon = desk.start("--dry-run")
        desk.until_true(lambda: len(desk.journaled("LedgerBooked")) > 0, "its lines")
        daemon.kill()
        daemon.wait(10)
        desk.start("--dry-run")
        desk.until_time(new_york_ns(NEXT_DAY, "09:30"))
        desk.until_true(lambda: "QQQ" in desk.books().state.book.positions, "SPY was sold for QQQ")
        stop(desk)
        lines = [line for event in desk.journaled("LedgerBooked") for line in event["activities"]]
        assert [(line["kind"], Decimal(line["quantity"]), Decimal(line["amount"])) for line in lines] == [
            ("SPLIT", 2 * shares, 0),
            ("DIV", 0, shares * Decimal("1.25")),
        ]
        (sold,) = [fill for fill in desk.journaled("OrderFilled") if (fill["symbol"], fill["side"]) == ("SPY", -1)]
        assert sold["quantity"] == 3 * shares
        state = desk.books().state
        assert abs(state.book.equity / equity - 1) < Decimal("0.05")  # a day's walk
        assert (state.risk.halt, desk.requests("POST", "DELETE")) == (None, [])


def test_a_special_dividend_that_is_announced_and_paid_later_keeps_no_basket_back_and_is_no_loss(
    models: Path, tmp_path: Path
) -> None:
    """23 % of the price: beyond the daily loss at which the desk halts."""
    days = made_up(dividends=(Dividend("SPY", NEXT_DAY, Decimal(115), paid="2024-07-18"),))
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, days=days) as desk:
        bought(desk)
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_true(lambda: bool(desk.held().get("QQQ")), "SPY was sold for QQQ")
        stop(desk)
        assert (desk.halts(), "basket_missed" in alarms(desk)) == ([], False)
        assert differences(desk.books(), desk.account) == []
