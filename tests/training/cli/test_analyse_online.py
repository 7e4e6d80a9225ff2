"""`analyse` for a desk that holds shares by the bar: its observations know no later bar and no older history."""

from __future__ import annotations

from pathlib import Path

import pytest

from strategies.online_dqn import OnlineDqn
from tests.support.training.online_bars import first_sessions
from training.analysis.strategy_runs import moments_of, observed, scripted_view
from training.cli.main import main


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three sessions of the bundled tape."""
    return first_sessions(tmp_path_factory.mktemp("online") / "three.csv", 3)


@pytest.mark.parametrize("analysis", ["lookahead", "warmup"])
def test_online_dqn_is_clean(analysis: str, tape: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["analyse", analysis, "--strategy", "online_dqn", "--bars", str(tape), "--samples", "1", "--seed", "3"]
    assert main(arguments) == 0
    assert "No observation and no decision" in capsys.readouterr().out


def test_the_scripted_desk_is_flat_and_long_in_turns(tape: Path) -> None:
    strategy = OnlineDqn()
    moments = moments_of(tape, strategy.spec)
    views = [scripted_view(moment, strategy.spec).portfolio for moment in moments[:80]]
    assert [view.shares for view in views if view is not None] == [(0,)] * 40 + [(500,)] * 40  # half of 100,000 USD
    positions = {float(observation.array()[0, -5]) for observation in observed(strategy, moments)}
    assert positions == {0.0, 1.0}
