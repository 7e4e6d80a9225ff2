"""A desk that holds something starts without a model: exits by rules go on, and a whole model is taken up again.

Expected values: the exchange's hours of a half day, and the server's own book.
"""

from __future__ import annotations

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.app.offline.command import command_offline
from daemon.cli import ctl
from daemon.core.events import LadderMoved
from daemon.models.pointer import CURRENT, point, pointer_text
from tests.support.desks.live_desk import differences
from tests.support.desks.stage import Stage, Tape, new_york_ns, stage
from tests.support.models.swaps import damage as flip
from tests.support.models.swaps import publish

DAY = "2024-11-29"  # closes at 13:00


def flipped(shelf: Path) -> None:
    """One bit of the policy is another."""
    path = shelf / "lively" / "policy.onnx"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def gone(shelf: Path) -> None:
    """The version's folder is not there."""
    shutil.rmtree(shelf / "lively")


def without_manifest(shelf: Path) -> None:
    (shelf / "lively" / "manifest.json").write_text("{")


def of_another_contract(shelf: Path) -> None:
    """The manifest names another contract, as after a release that changed the strategy."""
    path = shelf / "lively" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"contract_hash": "0" * 64}))


def of_another_shape(shelf: Path) -> None:
    """The manifest names another shape of observations."""
    path = shelf / "lively" / "manifest.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"observation_shape": [20, 24]}))


@pytest.mark.parametrize("damage", [flipped, gone, without_manifest, of_another_contract, of_another_shape])
def test_a_desk_that_holds_starts_without_its_model_leaves_before_the_close_and_takes_it_up_again(
    bundled: Tape, lively: Path, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    models = tmp_path / "models"
    shutil.copytree(lively, models, symlinks=True)
    whole = tmp_path / "whole"
    shutil.copytree(lively, whole, symlinks=True)
    with stage(bundled, DAY, "11:30", tmp_path / "desk", models) as desk:
        daemon = desk.start()
        desk.until_true(lambda: bool(desk.held()) and bool(desk.journaled("OrderFilled")), "something is held")
        daemon.kill()
        assert daemon.wait(10) == -signal.SIGKILL
        damage(models / "option_scalper")
        orders = len(desk.posts())
        desk.start()
        desk.until_true(lambda: "no_model" in desk.halts(), "the halt")
        desk.until_true(lambda: not desk.held(), "it is left")
        assert desk.clock.now_ns() < new_york_ns(DAY, "12:56")
        assert {post["side"] for post in desk.posts()[orders:]} == {"sell"}
        assert desk.books().state.model is None
        of_the_store = [line["alarm"] for line in desk.read_log("alarm")]
        assert [it for it in of_the_store if it in ("model_refused", "candidate_refused")] == ["model_refused"]
        shutil.copytree(whole, models, symlinks=True, dirs_exist_ok=True)
        desk.until_true(lambda: len(desk.journaled("ModelPromoted")) > 0, "the model is taken up again")
        assert ctl.main(["resume", "--state-dir", str(desk.state_dir), "--reason", "it is whole again"]) == 0
        desk.until_time(new_york_ns(DAY, "13:01"))
        desk.daemons[-1].terminate()
        assert desk.daemons[-1].wait(60) == 0
        state = desk.books().state
        assert (state.risk.halt, state.risk.strategy_off, state.model.version) == (None, False, "lively")
        assert differences(desk.books(), desk.account) == []


def test_a_desk_that_holds_nothing_refuses_to_start_without_its_model(
    bundled: Tape, lively: Path, tmp_path: Path
) -> None:
    models = tmp_path / "models"
    shutil.copytree(lively, models, symlinks=True)
    with stage(bundled, DAY, "08:30", tmp_path / "desk", models) as desk:
        daemon = desk.start()
        desk.until_true(lambda: desk.read_log("reconciled") != [], "book and broker agree")
        daemon.terminate()
        assert daemon.wait(60) == 0
        flipped(models / "option_scalper")
        again = desk.start()
        assert again.wait(60) == 2
        assert "refused" in json.dumps(again.read_log()[-1])


def run_once(desk: Stage) -> None:
    """Start, run until book and broker agree, and stop in order."""
    before = len(desk.read_log("reconciled"))
    daemon = desk.start()
    desk.until_true(lambda: len(desk.read_log("reconciled")) > before, "book and broker agree")
    daemon.terminate()
    assert daemon.wait(60) == 0


@pytest.mark.parametrize("champion", ["whole", "broken too"])
def test_a_flat_desk_whose_canary_is_broken_starts_on_its_champion_or_says_that_neither_can_be_loaded(
    bundled: Tape, lively: Path, tmp_path: Path, champion: str
) -> None:
    """The canary `v2` answered with a tenth of the size; its file is damaged while the desk is stopped."""
    models = tmp_path / "models"
    shutil.copytree(lively, models, symlinks=True)
    shelf = models / "option_scalper"
    with stage(bundled, DAY, "08:30", tmp_path / "desk", models) as desk:
        run_once(desk)
        folder = publish(models, "v2", 2)
        point(shelf, CURRENT, "v2", author="ladder", why="test", now_ns=0, canary=True)
        climbs = ("v2", "shadow", "canary_10", "lively", 0.1, 0, "shadow_passed", "ahead")
        command_offline(desk.state_dir, lambda now_ns: LadderMoved(now_ns, *climbs))
        run_once(desk)
        state = desk.books().state
        assert (state.model.version, "base" in state.ladder.figures) == ("v2", True)
        flip(folder)
        if champion == "broken too":
            flip(shelf / "lively")
            again = desk.start()
            assert again.wait(60) == 2
            last_line = json.dumps(again.read_log()[-1])
            assert str(folder) in last_line
            assert "its champion lively" in last_line
            return
        daemon = desk.start()
        desk.until_true(lambda: pointer_text(shelf, CURRENT) == "lively", "the champion is current again")
        desk.until_true(lambda: desk.journaled("LadderMoved")[-1]["reason"] == "left", "the canary is gone")
        daemon.terminate()
        assert daemon.wait(60) == 0
        moves = [(move["to_step"], move["reason"]) for move in desk.journaled("LadderMoved")]
        assert moves[-2:] == [("rolled_back", "verification"), ("rolled_back", "left")]
        state = desk.books().state
        assert (state.model.version, state.risk.halt) == ("lively", None)
