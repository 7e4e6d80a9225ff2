"""`rltrader completion bash`, in a bash: what it offers at each place of a command line."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from daemon.journal.journal import FILE
from rltrader.completion import script
from strategies.registry import STRATEGIES

ASK = """
source "$0"
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_rltrader_complete
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shell") / "rltrader.bash"
    path.write_text(script("bash"))
    return path


def offered(file: Path, *words: str, folder: Path | None = None) -> list[str]:
    """Return what bash offers for the last of these words."""
    command = ["bash", "--norc", "-c", ASK, str(file), *words]
    process = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, cwd=folder)
    assert process.stderr == ""
    return [line for line in process.stdout.splitlines() if line]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("rltrader", "das"), ["dashboard"]),
        (("rltrader", "ctl", "stat"), ["status"]),
        (("rltraderctl", "stat"), ["status"]),
        (("/opt/rltrader/bin/rltraderctl", "models", "roll"), ["rollback"]),
        (("rltrader", "run", "--dry"), ["--dry-run"]),
        (("rltraderd", "--dry"), ["--dry-run"]),
        (("rltrader", "ctl", "trades", "--side", "p"), ["put"]),
        (("rltrader", "train", "down"), ["download"]),
        (("rltrader", "train", "download", "--timeframe", "=", "1D"), ["1Day"]),
        (("rltrader", "completion", ""), ["bash", "zsh"]),
        (("rltrader", "data", "resample", "1"), ["15min", "1h", "1d"]),
        (("rltrader", "run", "--config", ""), []),  # then bash's own: files
    ],
)
def test_words_flags_and_choices(file: Path, words: tuple[str, ...], expected: list[str]) -> None:
    assert offered(file, *words) == expected


def test_strategies_and_files(file: Path, tmp_path: Path) -> None:
    (tmp_path / "own.py").touch()
    words = offered(file, "rltrader", "run", "--strategy", "", folder=tmp_path)
    assert words[: len(STRATEGIES)] == list(STRATEGIES)  # then those that other packages installed
    assert words[-1] == "own.py"


def test_folders_with_a_journal(file: Path, tmp_path: Path) -> None:
    for folder in ("state/paper", "a desk", "empty"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "state/paper" / FILE).touch()
    (tmp_path / "a desk" / FILE).touch()
    words = ("rltrader", "ctl", "status", "--state-dir")
    assert offered(file, *words, "", folder=tmp_path) == ["a desk", "state/paper"]
    assert offered(file, *words, "em", folder=tmp_path) == ["empty"]


def test_bash_asks_it_for_each_program(file: Path) -> None:
    process = subprocess.run(
        ["bash", "--norc", "-c", 'source <(cat "$0"); complete -p rltrader rltraderd train-and-export', str(file)],
        capture_output=True, text=True, timeout=60, check=True,
    )  # fmt: skip
    assert process.stdout.count("_rltrader_complete") == 3
