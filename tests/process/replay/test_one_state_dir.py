"""Daemon, rltraderctl and dashboard find the same state directory without an option."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from daemon.cli import ctl
from daemon.dashboard.__main__ import main as dashboard
from daemon.journal.journal import FILE
from tests.support.desks.desk_run import rltraderctl, rltraderd, tape_rows, write_tape


def test_all_commands_find_the_state_directory_of_the_configuration(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[paths]\nstate_dir = "mine"\n')
    finished = rltraderd("--dry-run", "--bars", write_tape(tmp_path / "t.csv", tape_rows(1, 10)), cwd=tmp_path)
    assert finished.returncode == 0, finished.stderr
    assert (tmp_path / "mine" / FILE).exists()
    result = rltraderctl("status", "--json", cwd=tmp_path)
    assert json.loads(result.stdout)["state_dir"] == "mine", result.stderr
    assert "identical" in rltraderctl("verify", cwd=tmp_path).stdout
    assert rltraderctl("events", "--limit", "1", cwd=tmp_path).returncode == 0


def test_without_a_journal_there_the_command_names_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLTRADER_PATHS__STATE_DIR", str(tmp_path / "elsewhere"))
    assert ctl.main(["verify"]) == 2
    assert str(tmp_path / "elsewhere") in capsys.readouterr().err
    monkeypatch.delenv("RLTRADER_PATHS__STATE_DIR")
    for text, problem in (("[paths]\nstate_dir = 1\n", "paths.state_dir is 1"), ("[paths", "config.toml: unreadable")):
        (tmp_path / "config.toml").write_text(text)
        assert ctl.main(["verify"]) == 2
        assert problem in capsys.readouterr().err
        assert dashboard([]) == 2
        assert problem in capsys.readouterr().err
