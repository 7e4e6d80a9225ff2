"""A daily desk that is stopped or paused between its decision and the open keeps what it holds, also after a restart.

Expected values: the policy wants ALL_QQQ while it holds SPY; nothing of that is left. Books are the server's own.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.cli import ctl
from tests.support.desks.daily_day import BEGIN, bought, stop
from tests.support.desks.daily_stage import HALF_DAY, NEXT_DAY, daily_stage, jump, swapping
from tests.support.desks.live_desk import differences
from tests.support.desks.stage import Stage, new_york_ns


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the swapping policy."""
    return swapping(tmp_path_factory.mktemp("swapping"))


def sale_is_sent(desk: Stage) -> bool:
    return any(post["side"] == "sell" for post in desk.posts())


def works(desk: Stage) -> bool:
    return any(order.symbol == "SPY" for order in desk.account.working.values())


@pytest.mark.parametrize("how", ["SIGTERM", "pause"])
def test_a_stop_before_the_open_leaves_the_account_as_it_is(models: Path, tmp_path: Path, how: str) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as desk:
        bought(desk)
        shares = desk.held()["SPY"]
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_true(lambda: sale_is_sent(desk), "the sale is sent")
        if how == "pause":
            assert ctl.main(["pause", "--state-dir", str(desk.state_dir), "--reason", "lunch"]) == 0
            desk.until_true(lambda: not works(desk), "the sale is cancelled")
        else:
            stop(desk)
            assert not works(desk)
            desk.start()
        desk.until_time(new_york_ns(NEXT_DAY, "09:50"))
        stop(desk)
        assert desk.held() == {"SPY": shares}
        assert desk.books().state.basket.given_up["SPY"] == -shares
        assert differences(desk.books(), desk.account) == []


def test_a_cash_account_buys_for_what_has_settled_and_is_refused_nothing(models: Path, tmp_path: Path) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as desk:
        bought(desk)
        desk.account.settles = True
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_true(lambda: not desk.held().get("SPY"), "SPY is sold")
        desk.until_time(new_york_ns(NEXT_DAY, "09:50"))
        stop(desk)
        alarms = {line["alarm"] for line in desk.read_log("alarm")}
        assert ("order_rejected" in alarms, "basket_unfinished" in alarms) == (False, True)
        assert desk.books().state.basket.given_up["QQQ"] > 0
        assert differences(desk.books(), desk.account) == []
