"""The desk of the show: a configuration that the daemon takes, with the ladder's criteria as shipped."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest

from daemon.config.load import load
from daemon.config.tables import LadderTable
from simulator.online.processes import configuration
from simulator.online.show import DeskAt
from training.online.__main__ import parser

SHORTER = {"promotion", "shadow_sessions", "canary_sessions"}


def test_no_criterion_of_the_ladder_is_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "show.toml"
    path.write_text(configuration(DeskAt(tmp_path, tmp_path / "redis.sock").own_tables()))
    ladder, shipped = load(path, {}).ladder, LadderTable()
    differing = {name for name, value in asdict(ladder).items() if getattr(shipped, name) != value}
    assert differing == SHORTER
    assert (ladder.promotion, ladder.shadow_sessions, ladder.canary_sessions) == ("automatic", 2, 1)


def test_the_trainer_makes_the_card_as_shipped(tmp_path: Path) -> None:
    arguments = [str(line) for line in DeskAt(tmp_path, tmp_path / "redis.sock").trainer()]
    options = parser().parse_args(arguments)
    shipped = parser().parse_args(["--desk", "x", "--redis", "x", "--models-dir", "x", "--own-dir", "x", "--bars", "x"])
    for name in ("card_horizon", "publish_every", "reward", "seed"):
        assert getattr(options, name) == getattr(shipped, name)
    assert options.card_sessions >= LadderTable().card_sessions_min
