"""`forecast_ensemble` at the loopback Alpaca: symbols of the configuration, W bars of history, a basket of many legs.

Expected values: the policy buys what it does not hold and what rose in the newest session, and sells all that it holds
(`tests.support.models.forecast_models`). Books are the server's own; returns are read from its prices.
"""

from __future__ import annotations

import signal
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest

from daemon.app.desks import desk_of
from daemon.cli import ctl
from simulator.prices.corporate_actions import Split
from simulator.prices.day_prices import DailyPrices
from simulator.prices.tape import calendar_sessions
from strategies.forecast_ensemble import SPEC, SYMBOLS
from strategies.registry import daily_strategy
from tests.support.desks.daily_day import BEGIN, stop
from tests.support.desks.daily_stage import CASH, HALF_DAY, NEXT_DAY, daily_stage, jump
from tests.support.desks.live_desk import differences
from tests.support.desks.stage import Stage, Table, new_york_ns
from tests.support.models.forecast_models import put_relay

LAST = "2024-07-02"  # the newest session before the first decision
NEW, NEW_FROM = "NEWCO", "2024-01-02"
SERVED = (*SYMBOLS[:9], NEW)
DESK: Table = {
    "desk": {"strategy": SPEC.name, "symbols": list(SERVED)},
    "basket": {"before_open_min": 30, "reprice_s": 120, "price_collar": 0.15},
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the policy that trades every day."""
    return put_relay(tmp_path_factory.mktemp("relay"))


@cache
def prices(*splits: Split) -> DailyPrices:
    """Seeded walks over more sessions than the strategy keeps; one symbol is listed late."""
    sessions = calendar_sessions("2020-06-01", "2024-08-01")
    closes = {symbol: (LAST, 20.0 + 10.0 * place) for place, symbol in enumerate(SERVED)}
    days = DailyPrices.made_up((*SERVED, "SPY"), sessions, last="2024-07-19", closes=closes, seed=5, splits=splits)
    for date in [date for date in days.bars[NEW] if date < NEW_FROM]:
        del days.bars[NEW][date]
    return days


def rose() -> set[str]:
    """The symbols with 60 settled rows that gained more than 0.5 % in the newest session."""
    bars, before = prices().bars, max(date for date in prices().bars[SERVED[0]] if date < LAST)
    return {
        symbol for symbol in SERVED if symbol != NEW and bars[symbol][LAST].close > 1.005 * bars[symbol][before].close
    }


def has_bought(desk: Stage) -> bool:
    """Whether all that rose is held, and each fill is journaled."""
    positions = desk.held()
    return rose() <= positions.keys() and sum(positions.values()) == sum(
        event["quantity"] for event in desk.journaled("OrderFilled")
    )


def test_a_session_loads_w_bars_buys_its_basket_once_and_is_reported_and_ready_for_the_next(
    models: Path, tmp_path: Path
) -> None:
    with daily_stage(HALF_DAY, "07:00", tmp_path, models, DESK, days=prices()) as desk:
        desk.start()
        report = desk.state_dir / "reports" / f"{HALF_DAY}.json"
        desk.until_true(report.exists, "the day's report")
        desk.until_true(lambda: len(desk.read_log("session_planned")) > 1, "the next session's jobs")
        stop(desk)
        books = desk.books()
        assert [event["date"] for event in desk.journaled("RebalanceDue")] == [HALF_DAY]
        assert [(row["action"], row["outcome"]) for row in books.decisions] == [("rebalance", "ordered")]
        assert differences(books, desk.account) == []
        assert rose() <= desk.held().keys() <= set(SERVED) - {NEW}
        posts = desk.posts()
        assert {(post["side"], post["time_in_force"]) for post in posts} == {("buy", "day")}
        assert len({post["symbol"] for post in posts}) == len(posts)
        assert 0 < CASH - books.state.book.cash <= Decimal("0.1") * CASH * len(posts)
        bars = daily_strategy(SPEC.name, SERVED).known(books.state.strategy)
        assert {len(bars[symbol]) for symbol in SERVED if symbol != NEW} == {SPEC.history_bars}
        assert bars[SERVED[0]][-1].start_ns == new_york_ns(HALF_DAY, "00:00")
        assert books.state.identity.symbols == SERVED
        warnings = [line["reason"] for line in desk.read_log("model_warning")]
        assert any(f"1 that it never saw ({NEW})" in reason for reason in warnings)
        assert desk_of(desk.state_dir).left_alone == {NEW: "features"}
        assert [line["detail"] for line in desk.read_log("alarm") if line["alarm"] == "symbols_masked"] == [
            f"1 of {len(SERVED)} left alone: features: {NEW}"
        ]
        assert ctl.main(["verify", "--state-dir", str(desk.state_dir)]) == 0


def test_a_death_in_mid_basket_and_a_split_over_night_send_nothing_twice_and_sell_all_shares(
    models: Path, tmp_path: Path
) -> None:
    split = Split(min(rose()), NEXT_DAY, Decimal(2))
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, DESK, days=prices(split)) as desk:
        desk.start()
        desk.until_true(lambda: has_bought(desk), "the first basket is bought")
        stop(desk)
        positions = desk.held()
        first = len(desk.posts())
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_true(lambda: any(post["side"] == "sell" for post in desk.posts()), "the first sale is sent")
        desk.daemons[-1].kill()
        assert desk.daemons[-1].wait(10) == -signal.SIGKILL
        desk.start()
        desk.until_true(lambda: not positions.keys() & desk.held().keys(), "all that was held is sold")
        desk.until_time(new_york_ns(NEXT_DAY, "09:50"))
        stop(desk)
        names = [post["client_order_id"] for post in desk.posts()]
        assert len(names) == len(set(names))
        sales = {post["symbol"]: int(post["qty"]) for post in desk.posts()[first:] if post["side"] == "sell"}
        assert sales == positions | {split.symbol: 2 * positions[split.symbol]}
        assert [event["date"] for event in desk.journaled("RebalanceDue")] == [HALF_DAY, NEXT_DAY]
        books = desk.books()
        assert books.state.risk.halt is None
        assert differences(books, desk.account) == []
        assert desk_of(desk.state_dir).left_alone == {NEW: "features"}  # a split that was adjusted masks nothing
        assert ctl.main(["verify", "--state-dir", str(desk.state_dir)]) == 0
