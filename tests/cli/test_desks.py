"""The list of a host's desks: each as its journal says, none hidden by another. Journals are made by the daemon's code.

Expected values: what the journals were made with, and a halt by hand.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from daemon.cli import ctl
from daemon.core.events import Event, HaltRequested, LadderMoved, RunStarted
from daemon.core.limits import Risk, Trading
from daemon.engine.recover import code_digest, fresh_machine, identity_of, recover
from daemon.engine.state_dir import open_state_dir
from daemon.journal.journal import FILE
from daemon.journal.rows import CommitBatch, HashChain, encode_effects
from strategies.registry import strategy

NOW = 1_720_000_000_000_000_000
OTHER = 64_913  # a user id that no host has
NAMES = {"scalper": "option_scalper", "rebalancer": "daily_rebalancer", "regime": "regime_switcher"}


ORIGINS: dict[str, tuple[str, ...]] = {
    "/etc/desk.toml": ("risk.daily_loss_max",),
    "default of regime_switcher": ("risk.drawdown_max",),
}


def write_desk(
    root: Path, name: str, *, halted: bool = False, limits: Risk | None = None, also: tuple[Event, ...] = ()
) -> None:
    """A desk's state directory as its first start leaves it."""
    meta = {"mode": "paper", "account": "paper", "strategy": NAMES[name], "feed": "sip", "desk": name}
    state_dir = open_state_dir(root / name, meta, "epoch")
    machine = fresh_machine(strategy(NAMES[name]), identity_of(state_dir.meta), Trading())
    recovered = recover(state_dir.journal.reader(), machine, code_digest())
    chain, batch = HashChain(recovered.last_id + 1, recovered.head), CommitBatch()
    trading = Trading(risk=limits or Risk())
    start = RunStarted(NOW, "paper", "paper", NAMES[name], "epoch", code_digest(), "sip", trading, "", ORIGINS)
    events: list[Any] = [start]
    events += [HaltRequested(NOW, "operator", "lunch", "me")] if halted else []
    events += also
    for event in events:
        step = machine.apply(event)
        batch.entries.append(chain.entry(step.state.seq, event, encode_effects(step.effects)))
    state_dir.journal.commit(batch)
    state_dir.journal.close()
    state_dir.close()


def listed(root: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> dict[str, dict[str, Any]]:
    """Desks by state directory's name, from the JSON lines."""
    assert ctl.main(["status", "--desks", str(root), "--json"]) == code
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {Path(row["state_dir"]).name: row for row in rows}


def test_all_desks_are_listed_with_what_each_one_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in NAMES:
        write_desk(tmp_path, name, halted=name == "regime")
    desks = listed(tmp_path, capsys)
    assert {name: row["strategy"] for name, row in desks.items()} == NAMES
    assert {name: row["halt"] for name, row in desks.items()} == {
        "scalper": "",
        "rebalancer": "",
        "regime": "operator: lunch (by me)",
    }
    assert {(row["process"], len(row["positions"]), row["problem"]) for row in desks.values()} == {("", 0, "")}


def test_a_table_is_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_desk(tmp_path, "regime", halted=True)
    assert ctl.main(["status", "--desks", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    for word in ("regime", "regime_switcher", "not running", "halted: operator: lunch", "flat", "none"):
        assert word in output


def test_the_start_file_s_names_stand_for_the_journals_and_totals_follow(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_desk(tmp_path, "regime", halted=True)
    write_desk(tmp_path, "scalper")
    file = tmp_path / "desks.toml"
    file.write_text('[[desk]]\nname = "mine"\nstate_dir = "regime"\n[[desk]]\nname = "other"\nstate_dir = "scalper"\n')
    assert ctl.main(["status", "--desks", str(file), "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(row["desk"], row["strategy"], row["alarms"], row["alarm"]) for row in rows] == [
        ("mine", "regime_switcher", 1, "operator"),
        ("other", "option_scalper", 0, ""),
    ]
    assert ctl.main(["status", "--desks", str(file)]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "mine │ regime_switcher" in output
    assert "1: operator" in output
    assert "paper account │ 2 │" in output  # of no account is a number known yet: both count
    file.write_text('[[desk]]\nname = "mine"\nstatedir = "regime"\n')
    assert ctl.main(["status", "--desks", str(file)]) == 2
    assert "desk[1].statedir is unknown: did you mean state_dir?" in capsys.readouterr().err


def test_a_journal_that_cannot_be_read_hides_no_other_desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_desk(tmp_path, "scalper")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / FILE).write_text("no journal")
    desks = listed(tmp_path, capsys, code=1)
    assert desks["scalper"]["problem"] == ""
    assert desks["broken"]["problem"]
    assert ctl.main(["status", "--desks", str(tmp_path)]) == 1
    assert "option_scalper" in capsys.readouterr().out


def test_a_running_desk_shows_its_process(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_desk(tmp_path, "regime")
    meta = {"mode": "paper", "account": "paper", "strategy": "regime_switcher", "feed": "sip", "desk": "regime"}
    running = open_state_dir(tmp_path / "regime", meta, "epoch")
    assert listed(tmp_path, capsys)["regime"]["process"].isdecimal()
    running.journal.close()
    running.close()


def test_one_desk_is_told_as_json_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_desk(tmp_path, "regime")
    assert ctl.main(["status", "--state-dir", str(tmp_path / "regime"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["desk"] == "regime"


def test_the_status_names_the_challenger_and_its_step(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    move = LadderMoved(NOW, "v2", "canary_10", "canary_25", "v1", 0.25, 0, "canary_passed", "2 sessions")
    write_desk(tmp_path, "scalper")
    write_desk(tmp_path, "regime", also=(move,))
    desks = listed(tmp_path, capsys)
    assert desks["scalper"]["challenger"] is None
    challenger = {"version": "v2", "step": "canary_25", "champion": "v1", "size": 0.25, "sessions": 0}
    assert desks["regime"]["challenger"] == challenger
    assert ctl.main(["status", "--state-dir", str(tmp_path / "regime")]) == 0
    assert "v2: canary 25, sessions on it: 0" in " ".join(capsys.readouterr().out.split())


def test_the_status_shows_the_limits_in_force_and_where_each_comes_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_desk(tmp_path, "regime", limits=Risk(daily_loss_max=0.03, drawdown_max=0.6))
    assert ctl.main(["status", "--state-dir", str(tmp_path / "regime"), "--json"]) == 0
    limits = {limit["key"]: limit for limit in json.loads(capsys.readouterr().out)["limits"]}
    assert limits["risk.daily_loss_max"] == {"key": "risk.daily_loss_max", "value": "0.03", "origin": "/etc/desk.toml"}
    assert limits["risk.drawdown_max"]["origin"] == "default of regime_switcher"
    assert limits["basket.turnover_max"] == {"key": "basket.turnover_max", "value": "2.05", "origin": "default"}
    assert "risk.order_contracts_max" not in limits  # of option desks
    assert ctl.main(["status", "--state-dir", str(tmp_path / "regime")]) == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "from /etc/desk.toml: risk.daily_loss_max 0.03" in output
    assert "from default of regime_switcher: risk.drawdown_max 0.6" in output


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_root_looks_at_each_desk_as_the_user_who_owns_its_folder(capsys: pytest.CaptureFixture[str]) -> None:
    with tempfile.TemporaryDirectory() as name:  # a folder that other users may enter
        root = Path(name)
        root.chmod(0o755)
        for desk in NAMES:
            write_desk(root, desk)
        for path in (root / "scalper", *(root / "scalper").iterdir(), root / "regime"):
            os.chown(path, OTHER, OTHER)
        (root / "regime" / FILE).chmod(0o600)  # root's still: nothing that the folder's owner can read
        desks = listed(root, capsys, code=1)
    assert os.geteuid() == 0
    assert {desk: row["strategy"] for desk, row in desks.items()} == NAMES | {"regime": ""}
    assert desks["regime"]["problem"]
    assert {desks["scalper"]["problem"], desks["rebalancer"]["problem"]} == {""}


def test_a_folder_without_a_desk_is_refused_with_the_cure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ctl.main(["status", "--desks", str(tmp_path)]) == 2
    assert "no desk has a journal here: name one with --state-dir" in capsys.readouterr().err
