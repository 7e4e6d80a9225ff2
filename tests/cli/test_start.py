"""`rltraderctl start`: each desk gets its files, its name and its keys. A shell script stands in the daemon's place.

A desk that stopped names on a terminal what leads on; a file or a pipe gets no such line.
"""

from __future__ import annotations

import os
import shlex
import signal
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.text import Text

from daemon.cli import ctl
from daemon.cli.start import desks as started
from daemon.cli.start import live
from daemon.config.load import Credentials, load
from daemon.host.time.clock import Clock

SCRIPT = """#!/bin/sh
echo "$RLTRADER_DESK__NAME $CREDENTIALS_DIRECTORY $*"
echo "for ${RLTRADER_LOG__FORMAT:-a file} of ${COLUMNS:-any} columns"
case $RLTRADER_DESK__NAME in
  refused) exit 2;;
  crashes) test -e crashed && exit 0; touch crashed; exit 1;;
  waits) trap 'echo stopping; exit 0' TERM; kill -USR1 $PPID; while :; do sleep 0.05; done;;
esac
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a start file's parts, and the script in the daemon's place."""
    script = tmp_path / "daemon.sh"
    script.write_text(SCRIPT)
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.setattr(started, "AGAIN_S", 0.1)
    monkeypatch.setattr(started, "LOOK_S", 0.02)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_desks(place: Path, *names: str, keys: tuple[str, ...] = ()) -> None:
    for name in names:
        (place / f"{name}.toml").write_text("")
    for name in keys:
        (place / "credentials" / name).mkdir(parents=True)
        (place / "credentials" / name / "APCA_API_KEY_ID").write_text(f"KEY-{name}")
    text = "".join(f'[[desk]]\nname = "{name}"\nstate_dir = "state/{name}"\n' for name in names)
    (place / "desks.toml").write_text(text)


def test_each_desk_is_started_with_its_own_files_name_and_keys(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_desks(place, "one", "two", keys=("one", "two"))
    assert ctl.main(["start"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("one", "two"):
        keys, of_desk = place / "credentials" / name, f"--config {name}.toml --state-dir state/{name}"
        assert f"{name} | {name} {keys} -P -m rltrader.module daemon {of_desk}" in lines
        assert f"{name} | ended with exit code 0" in lines
    assert ctl.main(["start", "--desk", "two", "--dry-run", "--check"]) == 0
    assert "two | two" in (output := capsys.readouterr().out)
    assert "--state-dir state/two --dry-run --check" in output
    assert "one |" not in output


def test_on_a_terminal_each_desk_writes_for_a_person_as_wide_as_is_left(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_desks(place, "one", "waiting", keys=("one", "waiting"))
    monkeypatch.delenv("COLUMNS", raising=False)
    assert ctl.main(["start"]) == 0
    assert capsys.readouterr().out.splitlines().count("one     | for a file of any columns") == 1
    monkeypatch.setenv("TTY_COMPATIBLE", "1")
    monkeypatch.setenv("COLUMNS", "100")
    assert ctl.main(["start"]) == 0
    lines = Text.from_ansi(capsys.readouterr().out).plain.splitlines()
    assert lines.count("one     | for pretty of 90 columns") == lines.count("waiting | for pretty of 90 columns") == 1


def test_a_crash_is_started_again_and_a_refusal_is_not(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_desks(place, "crashes", "refused", keys=("crashes",))
    assert ctl.main(["start"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines.count("crashes | ended with exit code 1: started again in 0.1 s") == 1
    assert lines.count("crashes | ended with exit code 0") == 1
    assert lines.count("refused | refused to start: mend what it names") == 1


def test_a_signal_stops_every_desk_cleanly(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_desks(place, "waits")
    before = signal.signal(signal.SIGUSR1, lambda *_: os.kill(os.getpid(), signal.SIGINT))
    try:
        assert ctl.main(["start"]) == 0
    finally:
        signal.signal(signal.SIGUSR1, before)
    lines = capsys.readouterr().out.splitlines()
    assert {"waits | stopping", "waits | ended with exit code 0"} <= set(lines)


def test_what_cannot_be_started_is_refused_before_anything_runs(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_desks(place, "one", "two")
    assert ctl.main(["start"]) == 2
    assert "one and two have no credentials of their own" in capsys.readouterr().err
    assert ctl.main(["start", "--desk", "three"]) == 2
    assert "--desk is 'three': desks.toml has no such desk: expected one of one, two" in capsys.readouterr().err
    (place / "two.toml").unlink()
    assert ctl.main(["start", "--dry-run"]) == 2
    assert "'two' has no config: it can be shown, not started" in capsys.readouterr().err


def test_systemd_gets_the_units_of_the_file_where_each_expects_its_desk(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_desks(place, "one", "two")
    assert ctl.main(["start", "--systemd", "--check"]) == 2
    assert "'one': state_dir is 'state/one': its unit expects /var/lib/rltrader/one" in capsys.readouterr().err
    monkeypatch.setattr(started, "UNITS", place)
    monkeypatch.setattr(started, "STATES", place / "state")
    assert ctl.main(["start", "--systemd", "--check", "--desks", str(place / "desks.toml")]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "systemctl add-wants rltrader-desks.target rltraderd@one.service rltraderd@two.service",
        "systemctl enable --now rltrader-desks.target",
    ]


# --- a desk that stopped at a terminal ------------------------------------------------------------------------------


@pytest.mark.parametrize(("terminal", "stopped_by", "expected"), [(True, "SIGINT", 4), (False, "SIGINT", 0)])
def test_a_live_desk_that_stopped_names_what_leads_on_at_a_terminal_alone(
    *,
    terminal: bool,
    stopped_by: str,
    expected: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async def end_at_once(*_: Any) -> str:
        return stopped_by

    desk = SimpleNamespace(clock=Clock.real())
    monkeypatch.setattr(live, "wait_for_first", lambda *_: None)
    monkeypatch.setattr(live, "prepare_live", lambda *_, **__: desk)
    monkeypatch.setattr(live, "run_live", end_at_once)
    monkeypatch.setattr("sys.stdout.isatty", lambda: terminal, raising=False)
    state_dir = tmp_path / "my desk"
    assert live.run(load(None, {"paths.state_dir": state_dir}), Credentials(), dry_run=True) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == expected
    for line in lines:
        program, *words = shlex.split(line.partition(":")[2])
        assert words[-2:] == ["--state-dir", str(state_dir)]
        if program == "rltraderctl":
            assert ctl.parser(words[0]).parse_args(words).state_dir == state_dir
