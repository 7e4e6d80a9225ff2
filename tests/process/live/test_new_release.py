"""A new release is laid under a desk that holds something, then the desk is killed: real processes of both releases.

Expected values are the server's book and its log of requests.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.cli import ctl
from tests.support.desks.desk_run import verified
from tests.support.desks.live_desk import SIZE, another_release
from tests.support.desks.stage import Stage, Tape, stage
from tests.support.desks.starts import BEFORE_FIRST_ENTRY, DAY, holding, working


def typed(desk: Stage, word: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """What `rltraderctl` answers."""
    assert ctl.main([word, "--state-dir", str(desk.state_dir), "--reason", "a test", *more]) == 0
    return capsys.readouterr().out


def entries(desk: Stage) -> int:
    return sum(post["side"] == "buy" for post in desk.posts())


def test_a_new_release_takes_a_killed_desk_over_halted_leaves_what_is_held_and_trades_after_a_resume(
    bundled: Tape, lively: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = another_release(tmp_path / "one contract", SIZE, SIZE.replace("sizing.max_contracts", "1"))
    with stage(bundled, DAY, BEFORE_FIRST_ENTRY, tmp_path, lively) as desk:
        former = desk.start()
        desk.until_true(lambda: holding(desk), "the former release holds something")
        positions = desk.held()
        assert sum(positions.values()) > 1
        former.kill()
        former.wait(10)
        before = entries(desk)
        desk.start(release=one)
        desk.until_true(lambda: any(line["reason"] == "code_changed" for line in desk.read_log("halted")), "the halt")
        assert "halted: code_changed" in typed(desk, "halt", capsys)
        assert desk.held() == positions
        assert "halted: flatten" in typed(desk, "flatten", capsys, "--yes")
        desk.until_true(lambda: not desk.held() and not working(desk, "sell"), "what was held is sold")
        assert entries(desk) == before
        assert "not halted" in typed(desk, "resume", capsys)
        desk.until_true(lambda: entries(desk) > before, "the new release buys")
        desk.until_true(lambda: holding(desk), "what it bought is held")
        assert sum(desk.held().values()) == 1  # its own rule
        desk.daemons[-1].terminate()
        assert desk.daemons[-1].wait(60) == 0
        assert desk.books().state.book.cash == desk.account.cash
        assert verified(desk.state_dir).difference == ""
