"""A daily desk's days at the loopback Alpaca: a whole session, a split over night, a death in mid-basket.

Expected values: the policy wants ALL_SPY from cash and ALL_QQQ while it holds SPY; books are compared with the
server's own at the end, and what reached it is read from its log of requests.
"""

from __future__ import annotations

import signal
from decimal import Decimal
from pathlib import Path

import pytest

from daemon.cli import ctl
from simulator.prices.corporate_actions import Split
from strategies.registry import daily_strategy
from tests.support.desks.daily_day import BEGIN, bought, stop
from tests.support.desks.daily_stage import CASH, HALF_DAY, NEXT_DAY, daily_stage, jump, made_up, swapping
from tests.support.desks.live_desk import differences
from tests.support.desks.stage import new_york_ns


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the swapping policy."""
    return swapping(tmp_path_factory.mktemp("swapping"))


def test_a_whole_session_buys_once_and_is_ended_reported_and_ready_for_the_next(models: Path, tmp_path: Path) -> None:
    with daily_stage(HALF_DAY, "07:00", tmp_path, models) as desk:
        desk.start()
        report = desk.state_dir / "reports" / f"{HALF_DAY}.json"
        desk.until_true(report.exists, "the day's report")
        desk.until_true(lambda: len(desk.read_log("session_planned")) > 1, "the next session's jobs")
        stop(desk)
        assert [event["date"] for event in desk.journaled("RebalanceDue")] == [HALF_DAY]
        assert [event["date"] for event in desk.journaled("SessionEnded")][-1] == HALF_DAY
        posts = desk.posts()
        assert {(post["symbol"], post["side"], post["time_in_force"]) for post in posts} == {("SPY", "buy", "day")}
        assert all("position_intent" not in post for post in posts)
        books = desk.books()
        assert differences(books, desk.account) == []
        shares = books.state.book.positions["SPY"].quantity
        assert shares * 450 < CASH < shares * 550  # the whole cash, at some price near 500
        newest = daily_strategy("regime_switcher").known(books.state.strategy)["SPY"][-1]
        assert newest.start_ns == new_york_ns(HALF_DAY, "00:00")
        assert [(row["action"], row["outcome"]) for row in books.decisions] == [("ALL_SPY", "ordered")]
        assert ctl.main(["verify", "--state-dir", str(desk.state_dir)]) == 0
        planned = len(desk.read_log("session_planned"))
        desk.start(tables=({"journal": {"rotate_mib": 1}},))
        desk.until_true(lambda: len(desk.read_log("session_planned")) > planned, "it goes on")
        stop(desk)
        (rotated,) = desk.read_log("journal_rotated")
        (day_end,) = desk.read_log("day_ended")
        lines = desk.daemons[-1].read_log()
        published = [line["event"] == "chain_head" for line in lines[: lines.index(day_end)]]
        assert published[-1]  # the day's
        assert desk.read_log("journal_not_rotated") == []
        after = desk.books()
        assert after.state.book.positions == books.state.book.positions
        assert differences(after, desk.account) == []
        for more in ([], ["--file", rotated["old"]]):
            log = ["--against", str(desk.folder / "log")]
            assert ctl.main(["verify", "--state-dir", str(desk.state_dir), *more, *log]) == 0


def test_a_split_over_night_doubles_the_shares_and_the_next_basket_sells_them_all_in_the_auction(
    models: Path, tmp_path: Path
) -> None:
    days = made_up(splits=(Split("SPY", NEXT_DAY, Decimal(2)),))
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, days=days) as desk:
        bought(desk)
        shares = desk.held()["SPY"]
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_true(lambda: bool(desk.held().get("QQQ")), "QQQ is bought")
        desk.until_true(lambda: not desk.held().get("SPY"), "SPY is sold")
        desk.until_time(new_york_ns(NEXT_DAY, "09:45"))
        stop(desk)
        sells = [post for post in desk.posts() if post["side"] == "sell"]
        assert [(post["symbol"], int(post["qty"]), post["time_in_force"]) for post in sells] == [
            ("SPY", 2 * shares, "opg")
        ]
        assert "SPY" in [event["symbol"] for event in desk.journaled("HistoryAdjusted")]
        books = desk.books()
        assert books.state.risk.halt is None
        assert differences(books, desk.account) == []


def test_a_daemon_that_dies_in_mid_basket_goes_on_with_it_and_sends_nothing_twice(models: Path, tmp_path: Path) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as desk:
        bought(desk)
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_true(lambda: any(post["side"] == "sell" for post in desk.posts()), "the sale is sent")
        desk.daemons[-1].kill()
        assert desk.daemons[-1].wait(10) == -signal.SIGKILL
        desk.start()
        desk.until_true(lambda: bool(desk.held().get("QQQ")), "QQQ is bought")
        desk.until_time(new_york_ns(NEXT_DAY, "09:50"))
        stop(desk)
        names = [post["client_order_id"] for post in desk.posts()]
        assert len(names) == len(set(names))
        assert len([post for post in desk.posts() if post["side"] == "sell"]) == 1
        assert [event["date"] for event in desk.journaled("RebalanceDue")] == [HALF_DAY, NEXT_DAY]
        assert differences(desk.books(), desk.account) == []


def test_a_daemon_that_starts_after_the_open_trades_nothing_that_day_and_says_so(models: Path, tmp_path: Path) -> None:
    with daily_stage(HALF_DAY, "09:31", tmp_path, models) as desk:
        desk.start()
        desk.until_true(lambda: any(line["alarm"] == "basket_missed" for line in desk.read_log("alarm")), "the alarm")
        desk.until_time(new_york_ns(HALF_DAY, "10:00"))
        stop(desk)
        assert desk.posts() == []
        assert desk.journaled("RebalanceDue") == []


def test_a_start_days_after_a_session_it_did_not_end_reports_that_one_and_plans_today_once(
    models: Path, tmp_path: Path
) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as desk:
        bought(desk)
        jump(desk, NEXT_DAY, "10:00")
        desk.start()
        desk.until_true(lambda: desk.read_log("day_ended") != [], "the report of the day before")
        stop(desk)
        assert [line["date"] for line in desk.read_log("day_ended")] == [HALF_DAY]
        planned = [line["date"] for line in desk.read_log("session_planned")]
        assert planned == [HALF_DAY, NEXT_DAY]
        assert desk.read_log("job_failed") == []


def test_a_dry_run_on_the_live_feed_fills_its_basket_on_paper_and_sends_nothing(models: Path, tmp_path: Path) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as desk:
        desk.start("--dry-run")
        desk.until_true(lambda: desk.journaled("OrderFilled") != [], "a fill on paper")
        stop(desk)
        assert desk.requests("POST", "DELETE") == []
        assert list(desk.books().state.book.positions) == ["SPY"]


def test_before_the_close_it_decides_on_the_running_day_and_trades_within_it(models: Path, tmp_path: Path) -> None:
    late = {"basket": {"decide": "before_close", "before_close_min": 30}}
    with daily_stage(HALF_DAY, "12:00", tmp_path, models, late) as desk:
        desk.start()
        desk.until_true(lambda: bool(desk.held().get("SPY")), "SPY is bought")
        desk.until_true(lambda: desk.journaled("OrderFilled") != [], "the fill is journaled")
        (due,) = desk.journaled("RebalanceDue")
        assert [bar["symbol"] for bar in due["running"]] == ["SPY", "QQQ", "IWM"]
        assert new_york_ns(HALF_DAY, "12:30") <= due["time_ns"] < new_york_ns(HALF_DAY, "12:45")
        stop(desk)
        assert differences(desk.books(), desk.account) == []
