"""What the campaign does to a daemon's files, where they are not what it expects."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest

from daemon.engine.state_dir import open_state_dir
from daemon.journal.journal import FILE
from simulator.virtual_clock import virtual_clock
from tests.chaos.desk import Desk

WANTED = {"mode": "paper", "account": "paper", "strategy": "option_scalper", "feed": "sip", "desk": "d"}


@pytest.mark.parametrize("journal", [False, True])
def test_where_no_snapshot_exists_yet_none_is_damaged(tmp_path: Path, *, journal: bool) -> None:
    if journal:
        state_dir: Any = open_state_dir(tmp_path / "state", WANTED, "e1")
        state_dir.journal.close()
        state_dir.close()
    with virtual_clock(0, "seed") as clock:
        desk = Desk(tmp_path / "config", tmp_path / "state", ("k", "s"), tmp_path / "log", clock, begin=False)
        assert desk.flip_in_snapshot(random.Random(1)) == ""
        assert not desk.has_snapshot()
    assert (tmp_path / "state" / FILE).exists() == journal
