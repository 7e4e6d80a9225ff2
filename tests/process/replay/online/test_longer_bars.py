"""A shipped strategy by 15 minutes on a tape of minutes: killed in the middle of bars, it ends as if nothing was."""

from __future__ import annotations

from pathlib import Path

from daemon.config.strategy import strategy_of
from daemon.tapes import BUNDLED_TAPE
from strategies.online_dqn.model_config import SHIPPED
from tests.support.desks.desk_run import Crash, Desk, records, settings, table, verified
from tests.support.models.online_models import NAME, VERSION, put_momentum

EVERY = 2003  # steps from one crash to the next: a prime, so it comes anywhere within a bar
MOST = 40  # crashes


def test_a_crash_within_a_bar_changes_nothing(tmp_path: Path) -> None:
    config = tmp_path / "quarters.yaml"
    config.write_text(SHIPPED.read_text().replace("bar_minutes: 1", "bar_minutes: 15"))
    options = {"desk__strategy": NAME, "desk__symbols": ("SPY",), "desk__model_config": str(config)}
    models = put_momentum(tmp_path / "store", strategy_of(settings(tmp_path, **options)))
    desk = Desk(
        Path(BUNDLED_TAPE), paths__models_dir=models, policy__version=VERSION, sizing__stop_loss=0.002, **options
    )
    whole = desk.run(tmp_path / "whole")
    assert whole.failure is None
    for _ in range(MOST):
        steps_left = EVERY

        def crash(boundary: str) -> None:
            nonlocal steps_left
            steps_left -= boundary == "before step"
            if steps_left == 0:
                raise Crash

        again = desk.run(tmp_path / "crashed", boundary=crash, group_events=1)
        if again.failure is None:
            break
        assert isinstance(again.failure, Crash)
    assert (again.failure, again.digest) == (None, whole.digest)
    assert table(tmp_path / "crashed", "fills") == table(tmp_path / "whole", "fills") != []
    assert verified(tmp_path / "crashed").difference == ""
    fills = records(tmp_path / "whole", "fills", "filled_ns")
    minutes = {row["filled_ns"] // 60_000_000_000 % 15 for row in fills}
    assert minutes != {0}  # stops act between the ends of bars
