"""A desk that holds a fund which its list no longer names: refused and told, and it leaves by its former list."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from daemon.cli import ctl
from tests.support.desks.daily_day import BEGIN, bought, stop
from tests.support.desks.daily_stage import HALF_DAY, daily_stage, swapping
from tests.support.desks.live_desk import differences
from tests.support.desks.stage import Table


def test_an_invested_desk_with_another_list_does_not_start_is_told_and_flattens_by_its_own(tmp_path: Path) -> None:
    models = swapping(tmp_path / "models")
    alarm_file, program = tmp_path / "alarms", tmp_path / "program.py"
    program.write_text(f"import sys; open({str(alarm_file)!r}, 'a').write(sys.stdin.read())")
    alarms: Table = {"alarms": {"command": [sys.executable, str(program)], "timeout_s": 60}}
    with daily_stage(HALF_DAY, BEGIN, tmp_path / "desk", models) as desk:
        bought(desk)
        positions, orders = desk.held(), len(desk.posts())
        assert desk.start(tables=({"desk": {"symbols": ["TLT", "GLD"]}}, alarms)).wait(60) == 1
        desk.daemons.pop()
        detail = json.loads(alarm_file.read_text().splitlines()[0])["detail"]
        assert "made with symbols of the strategy itself, now TLT,GLD is asked for: set desk.symbols to" in detail
        assert (desk.held(), len(desk.posts())) == (positions, orders)
        desk.start(tables=({"desk": {"symbols": ["SPY", "QQQ", "IWM"]}},))  # its own, by their names: the same list
        desk.until_true(lambda: desk.books().state.risk.reconciled, "it is reconciled")
        assert ctl.main(["flatten", "--state-dir", str(desk.state_dir), "--reason", "another list"]) == 0
        desk.until_true(lambda: not any(desk.held().values()), "all is sold")
        stop(desk)
        assert differences(desk.books(), desk.account) == []
