"""What a person mistypes or a pipe breaks: both commands answer in one line, and nothing is written.

The commands run as processes, as a shell runs them; the journal that is looked at comes from one short replay.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rltrader import module_command
from tests.support.paths import REPOSITORY

COMMANDS = {"rltraderd": "daemon", "rltraderctl": "daemon.cli.ctl"}
ORDINARY = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []  # root reads all
HEAD = "timestamp,open,high,low,close,volume\n"


def run(command: str, *arguments: str | Path, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("RLTRADER_", "APCA_"))}
    line = [*ORDINARY, sys.executable, "-m", COMMANDS[command], *map(str, arguments)]
    return subprocess.run(line, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=300)


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The journal of one bar: 2024-11-12 10:15 New York."""
    folder = tmp_path_factory.mktemp("odd")
    tape = folder / "one.csv"
    tape.write_text(HEAD + "2024-11-12T15:15:00Z,500,501,499,500,1000\n")
    finished = run("rltraderd", "--dry-run", "--bars", tape, "--state-dir", folder / "state")
    assert json.loads(finished.stdout.splitlines()[-1])["bars"] == 1
    return folder / "state"


def test_rltraderctl_alone_lists_its_commands() -> None:
    process = run("rltraderctl")
    assert (process.returncode, process.stdout) == (2, "")
    assert "round trips" in process.stderr  # what `trades` is for
    assert process.stderr.endswith("rltraderctl: name a command: rltraderctl COMMAND --help explains one\n")


@pytest.mark.parametrize(
    ("word", "meant"),
    [("promote", "models activate"), ("activate", "models activate"), ("hold", "models hold"), ("remot", "remote")],
)
def test_a_command_of_the_models_that_is_typed_without_them_is_named(word: str, meant: str) -> None:
    process = run("rltraderctl", word, "v2")
    assert (process.returncode, process.stdout) == (2, "")
    assert f"no command is called '{word}'; did you mean {meant}?" in process.stderr


def test_status_in_the_folder_of_a_desk_that_was_not_started_names_that_desk(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[paths]\nstate_dir = "state/mine"\n')
    for words in ((), ("--json",)):
        process = run("rltraderctl", "status", *words, cwd=tmp_path)
        assert process.returncode == 2
        assert process.stderr.startswith(
            "rltraderctl: state/mine: no journal here yet, because this desk was not started"
        )
    other = tmp_path / "other"
    other.mkdir()
    assert "/var/lib/rltrader: no desk has a journal here" in run("rltraderctl", "status", cwd=other).stderr


def test_check_refuses_what_a_run_would_refuse_as_state_directory(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    for place in (tmp_path / "file", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        finished = run("rltraderd", "--dry-run", "--check", "--state-dir", place)
        assert finished.returncode == 2
        assert f"{place}: cannot be a state directory" in json.loads(finished.stderr.splitlines()[-1])["problem"]


def test_an_empty_state_directory_is_not_the_working_directory() -> None:
    finished = run("rltraderd", "--dry-run", "--check", "--state-dir", "")
    assert (finished.returncode, "--state-dir: is empty" in finished.stderr) == (2, True)


def test_a_tape_without_a_regular_bar_is_warned_about(tmp_path: Path) -> None:
    tape = tmp_path / "saturday.csv"
    tape.write_text(HEAD + "2024-03-30T14:30:00Z,500,501,499,500,1000\n")
    finished = run("rltraderd", "--dry-run", "--bars", tape, "--state-dir", tmp_path / "state")
    warned = [line for line in map(json.loads, finished.stderr.splitlines()) if line["event"] == "no_bars"]
    assert [line["tape"] for line in warned] == ["saturday.csv"]
    assert "last event │ none" in " ".join(
        run("rltraderctl", "status", "--state-dir", tmp_path / "state").stdout.split()
    )


def test_a_command_that_is_none_is_answered_with_the_nearest() -> None:
    finished = run("rltraderctl", "statsu")
    nearest = "rltraderctl: no command is called 'statsu'; did you mean status?: rltraderctl --help lists all\n"
    assert (finished.returncode, finished.stderr) == (2, nearest)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("events", "--kind", "OrderFiled"), "did you mean OrderFilled?"),
        (("events", "--kind", "Nosuch"), "'Nosuch' is no kind of event: expected one of "),
        (("events", "--limit", "0"), "'0' is no count; expected 1 or more"),
        (("events", "--limit", "-1"), "'-1' is no count; expected 1 or more"),
        (("decisions", "--outcome", "foo"), "invalid choice: 'foo'"),
        (("decisions", "--bar", "9" * 23), "is no time: write 2024-08-05T10:15"),
        (("decisions", "--bar", "9999-12-31T23:59"), "is no time: write 2024-08-05T10:15"),
        (("halt", "--reason", " "), "--reason is empty: a halt states why"),
        (("resume", "--reason", ""), "--reason is empty: a resume states why"),
    ],
)
def test_a_question_that_means_nothing_is_answered_in_one_line(
    state: Path, arguments: tuple[str, ...], message: str
) -> None:
    command, *rest = arguments
    finished = run("rltraderctl", command, "--state-dir", state, *rest)
    assert (finished.returncode, finished.stdout) == (2, "")
    assert message in finished.stderr.splitlines()[-1]
    assert "Traceback" not in finished.stderr


@pytest.mark.skipif(bool(ORDINARY) and shutil.which("setpriv") is None, reason="needs setpriv to give up root's rights")
def test_what_this_user_may_not_read_is_named_with_the_cure(tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir(mode=0)
    (tmp_path / "theirs.csv").write_text(HEAD)
    (tmp_path / "theirs.csv").chmod(0)
    process = run("rltraderctl", "status", "--state-dir", tmp_path / "theirs")
    message = f"{tmp_path}/theirs/journal.sqlite: Permission denied: run it as root or as the desk's user"
    assert (process.returncode, message in process.stderr) == (2, True)
    process = run("rltraderd", "--dry-run", "--bars", tmp_path / "theirs.csv", "--state-dir", tmp_path / "state")
    message = f"{tmp_path}/theirs.csv: Permission denied: give your user the right to read it"
    assert (process.returncode, message in process.stderr) == (2, True)
    line = [*ORDINARY, *module_command("daemon.dashboard", "--state-dir", tmp_path / "theirs", "--port", "0")]
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as page:
        message = f"rltrader-dashboard: {tmp_path}/theirs: Permission denied: run it as root or as the desk's user\n"
        assert page.stderr is not None
        assert page.stderr.readline() == message
        page.terminate()


def test_a_reader_that_goes_away_is_no_trouble(state: Path) -> None:
    for command in ("rltraderctl events --json --state-dir", "rltraderctl status --state-dir"):
        name, *rest = command.split()
        line = f"{sys.executable} -m {COMMANDS[name]} {' '.join(rest)} '{state}' | true; exit ${{PIPESTATUS[0]}}"
        finished = subprocess.run(["bash", "-c", line], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert finished.stderr == ""
