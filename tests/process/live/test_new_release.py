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


def typed(played: Stage, word: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    """What `rltraderctl` answers."""
    assert ctl.main([word, "--state-dir", str(played.state_dir), "--reason", "a test", *more]) == 0
    return capsys.readouterr().out


def entries(played: Stage) -> int:
    return sum(post["side"] == "buy" for post in played.posts())


def test_a_new_release_takes_a_killed_desk_over_halted_leaves_what_is_held_and_trades_after_a_resume(
    bundled: Tape, lively: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = another_release(tmp_path / "one contract", SIZE, SIZE.replace("sizing.max_contracts", "1"))
    with stage(bundled, DAY, BEFORE_FIRST_ENTRY, tmp_path, lively) as played:
        former = played.start()
        played.until_true(lambda: holding(played), "the former release holds something")
        held = played.held()
        assert sum(held.values()) > 1
        former.kill()
        former.wait(10)
        before = entries(played)
        played.start(release=one)
        played.until_true(
            lambda: any(line["reason"] == "code_changed" for line in played.read_log("halted")), "the halt"
        )
        assert "halted: code_changed" in typed(played, "halt", capsys)
        assert played.held() == held
        assert "halted: flatten" in typed(played, "flatten", capsys, "--yes")
        played.until_true(lambda: not played.held() and not working(played, "sell"), "what was held is sold")
        assert entries(played) == before
        assert "not halted" in typed(played, "resume", capsys)
        played.until_true(lambda: entries(played) > before, "the new release buys")
        played.until_true(lambda: holding(played), "what it bought is held")
        assert sum(played.held().values()) == 1  # its own rule
        played.daemons[-1].terminate()
        assert played.daemons[-1].wait(60) == 0
        assert played.books().state.book.cash == played.account.cash
        assert verified(played.state_dir).difference == ""
