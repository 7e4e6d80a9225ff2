"""A daily desk that is invested starts without its model: it is watched, says so each session, and sells nothing."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from daemon.cli import ctl
from tests.support.desks.daily_day import BEGIN, bought, stop
from tests.support.desks.daily_stage import HALF_DAY, NEXT_DAY, daily_stage, jump, swapping
from tests.support.desks.live_desk import differences
from tests.support.desks.stage import Table, new_york_ns


def test_an_invested_desk_without_its_model_keeps_what_it_holds_and_says_so_each_session(tmp_path: Path) -> None:
    models = swapping(tmp_path / "models")
    with daily_stage(HALF_DAY, BEGIN, tmp_path / "desk", models) as desk:
        bought(desk)
        positions, orders = desk.held(), len(desk.posts())
        (policy,) = (models / "regime_switcher").glob("swapping/policy.onnx")
        policy.write_bytes(policy.read_bytes()[:-1])
        desk.start()
        desk.until_true(lambda: desk.read_log("halted") != [], "the halt")
        desk.until_time(new_york_ns(HALF_DAY, "12:00"))
        desk.daemons[-1].kill()
        assert desk.daemons[-1].wait(10) == -signal.SIGKILL
        jump(desk, NEXT_DAY, BEGIN)
        desk.start()
        desk.until_time(new_york_ns(NEXT_DAY, "10:00"))
        stop(desk)
        assert (desk.held(), len(desk.posts())) == (positions, orders)
        lines = [line for line in desk.read_log("alarm") if line["alarm"] == "no_model"]
        assert len(lines) == 1  # the session that began while it was halted
        assert f"{positions['SPY']} SPY" in lines[0]["detail"]
        state = desk.books().state
        assert state.risk.halt is not None
        assert (state.risk.halt.reason, state.model) == ("no_model", None)
        assert differences(desk.books(), desk.account) == []


@pytest.mark.parametrize("cause", ["configuration", "no_model"])
def test_an_invested_desk_whose_start_was_halted_says_so_each_session_whatever_halted_before(
    tmp_path: Path, cause: str
) -> None:
    models = swapping(tmp_path / "models")
    with daily_stage(HALF_DAY, BEGIN, tmp_path / "desk", models) as desk:
        bought(desk)
        positions, orders = desk.held(), len(desk.posts())
        tables: tuple[Table, ...] = ({"risk": {"daly_loss_max": 0.1}},)
        if cause == "no_model":  # a halt from before stays the halt
            assert ctl.main(["halt", "--state-dir", str(desk.state_dir), "--reason", "by hand"]) == 0
            (policy,) = (models / "regime_switcher").glob("swapping/policy.onnx")
            policy.write_bytes(policy.read_bytes()[:-1])
            tables = ()
        for day in (HALF_DAY, NEXT_DAY):
            if day == NEXT_DAY:
                jump(desk, NEXT_DAY, BEGIN)
            desk.start(tables=tables)
            desk.until_time(new_york_ns(day, "10:00"))
            desk.daemons[-1].kill()
            assert desk.daemons[-1].wait(10) == -signal.SIGKILL
        details = [
            line["detail"] for line in desk.read_log("alarm") if line["alarm"] == cause and "is held" in line["detail"]
        ]
        assert len(details) == 1  # the session that began while it was halted
        assert f"{positions['SPY']} SPY" in details[0]
        assert (desk.held(), len(desk.posts())) == (positions, orders)
