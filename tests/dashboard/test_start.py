"""The dashboard as a command: what it refuses to start for."""

from __future__ import annotations

import signal
import socket
import subprocess
from pathlib import Path

import pytest

from daemon.dashboard.__main__ import _options, main
from daemon.dashboard.desks import chosen_desks
from daemon.journal.journal import FILE
from rltrader import module_command


def test_a_port_in_use_is_named_with_the_option_that_chooses_another(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert main(["--state-dir", str(tmp_path), "--port", str(port)]) == 2
    assert capsys.readouterr().err == (
        f"rltrader-dashboard: port {port}: Address already in use: choose another with --port, or 0 for a free one\n"
    )


def test_desks_are_those_of_a_start_file_or_those_with_a_journal_below_a_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--desks", str(tmp_path)]) == 2
    assert capsys.readouterr().err.startswith(f"rltrader-dashboard: {tmp_path}: no desk has a journal here: name one")
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_text("cannot be read")
    file = tmp_path / "desks.toml"
    file.write_text('[[desk]]\nname = "mine"\nstate_dir = "b"\n')
    for place, expected in ((tmp_path, {"a": "a", "b": "b"}), (file, {"mine": "b"})):
        desks = chosen_desks(_options(["--desks", str(place)]))
        assert {name: desk.path for name, desk in desks.items()} == {
            name: tmp_path / folder for name, folder in expected.items()
        }


def test_a_desk_that_is_given_twice_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--state-dir", str(tmp_path), "--state-dir", f"{tmp_path}/."]) == 2
    assert "one is given twice: a desk counts once" in capsys.readouterr().err


def test_a_state_directory_that_is_not_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    places = ("--state-dir", tmp_path / "nosuch", "--state-dir", tmp_path / "empty")
    runs = tmp_path / "no-runs"
    command = module_command("daemon.dashboard", *places, "--runs-dir", runs, "--port", "0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        page.stdout.readline()
        page.terminate()
        try:
            _, problems = page.communicate(timeout=120)
        finally:
            page.kill()
    assert f"{tmp_path / 'nosuch'}: no such folder: is it the right --state-dir?" in problems
    assert f"{tmp_path / 'empty'}: no journal here yet" in problems
    assert f"{runs}: no such folder; name it with --runs-dir" in problems


def test_ctrl_c_ends_it_without_a_traceback(tmp_path: Path) -> None:
    command = module_command("daemon.dashboard", "--state-dir", tmp_path, "--port", "0")
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as page:
        assert page.stdout is not None
        assert "Ctrl-C ends it" in page.stdout.readline()
        page.send_signal(signal.SIGINT)
        try:
            _, problems = page.communicate(timeout=120)
        finally:
            page.kill()
    assert page.returncode == 0
    assert "Traceback" not in problems
