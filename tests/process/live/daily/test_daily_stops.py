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


def sale_is_sent(played: Stage) -> bool:
    return any(post["side"] == "sell" for post in played.posts())


def works(played: Stage) -> bool:
    return any(order.symbol == "SPY" for order in played.account.working.values())


@pytest.mark.parametrize("how", ["SIGTERM", "pause"])
def test_a_stop_before_the_open_leaves_the_account_as_it_is(models: Path, tmp_path: Path, how: str) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as played:
        bought(played)
        held = played.held()["SPY"]
        jump(played, NEXT_DAY, BEGIN)
        played.start()
        played.until_true(lambda: sale_is_sent(played), "the sale is sent")
        if how == "pause":
            assert ctl.main(["pause", "--state-dir", str(played.state_dir), "--reason", "lunch"]) == 0
            played.until_true(lambda: not works(played), "the sale is cancelled")
        else:
            stop(played)
            assert not works(played)
            played.start()
        played.until_time(new_york_ns(NEXT_DAY, "09:50"))
        stop(played)
        assert played.held() == {"SPY": held}
        assert played.books().state.basket.given_up["SPY"] == -held
        assert differences(played.books(), played.account) == []


def test_a_cash_account_buys_for_what_has_settled_and_is_refused_nothing(models: Path, tmp_path: Path) -> None:
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models) as played:
        bought(played)
        played.account.settles = True
        jump(played, NEXT_DAY, BEGIN)
        played.start()
        played.until_true(lambda: not played.held().get("SPY"), "SPY is sold")
        played.until_time(new_york_ns(NEXT_DAY, "09:50"))
        stop(played)
        alarms = {line["alarm"] for line in played.read_log("alarm")}
        assert ("order_rejected" in alarms, "basket_unfinished" in alarms) == (False, True)
        assert played.books().state.basket.given_up["QQQ"] > 0
        assert differences(played.books(), played.account) == []
