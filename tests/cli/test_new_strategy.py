"""`rltraderctl new-strategy`: what it writes is short and clean, and its tests pass."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest

from daemon.cli import ctl
from tests.support.paths import REPOSITORY

KINDS = (("session", "shares"), ("bar", "shares"), ("bar", "option"))
TEMPLATES = ("rules", "ppo", "sb3")
ALL = (*product(KINDS, TEMPLATES), *product(KINDS[:2], ("plain",)))


def write(name: str, cadence: str, holds: str, *more: str) -> int:
    """Run the command."""
    return ctl.main(["new-strategy", name, "--cadence", cadence, "--holds", holds, *more])


def name_of(cadence: str, holds: str, template: str) -> str:
    """A name as long as may be."""
    return f"own_{cadence}_{holds}_{template}".ljust(30, "x")


@pytest.fixture(scope="module")
def strategies_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with every kind and template; each command names the one that makes the model."""
    folder = tmp_path_factory.mktemp("written")
    stderr = io.StringIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(sys, "stderr", stderr)
        for (cadence, holds), template in ALL:
            assert write(name_of(cadence, holds, template), cadence, holds, "--template", template) == 0
    names = [name_of(cadence, holds, template) for (cadence, holds), template in ALL]
    lines = stderr.getvalue().splitlines()
    assert [line.split(" && ")[0] for line in lines] == [f"next: cd {name}" for name in names]
    for name, line in zip(names, lines, strict=True):
        assert f"    {line.split(' && ')[1]}\n" in (folder / name / "README.md").read_text()
    return folder


def test_it_is_short_and_clean_whatever_it_is_called(strategies_dir: Path) -> None:
    for command in (["check", "--select", "ALL"], ["format", "--check"]):
        ignored = ["--ignore", "D,INP,S101,PLR2004,ERA001,CPY,T201,COM812,PLC0415,TC"] if "check" in command else []
        line = [sys.executable, "-m", "ruff", *command, *ignored, "--no-cache", "."]
        process = subprocess.run(line, cwd=strategies_dir, capture_output=True, text=True, check=False)
        assert process.returncode == 0, process.stdout
    lengths = {path.name: len(path.read_text().splitlines()) for path in strategies_dir.rglob("*.py")}
    assert len(lengths) == 31
    assert {name: count for name, count in lengths.items() if count > 110} == {}


@pytest.mark.parametrize(("cadence", "holds"), KINDS)
def test_its_tests_pass(strategies_dir: Path, cadence: str, holds: str) -> None:
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    folder = strategies_dir / name_of(cadence, holds, "rules")
    process = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert process.returncode == 0, process.stdout
    assert f"{6 if cadence == 'session' or holds == 'shares' else 5} passed" in process.stdout


@pytest.mark.parametrize("cadence", ["session", "bar"])
def test_the_tests_of_a_rule_in_its_own_file_pass(strategies_dir: Path, cadence: str) -> None:
    line = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    folder = strategies_dir / name_of(cadence, "shares", "plain")
    process = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert process.returncode == 0, process.stdout
    assert not list(folder.glob("*_training.py"))
    named = re.findall(r"(\w+)=20", (folder / "README.md").read_text())
    assert named
    assert [
        name for name in named if f'"{name}": kit.Parameter(' not in (folder / f"{folder.name}.py").read_text()
    ] == []


def test_what_a_rule_by_the_bar_sees_is_the_same_with_more_history_although_a_symbol_has_holes(
    strategies_dir: Path,
) -> None:
    folder = strategies_dir / name_of("bar", "shares", "plain")
    proof = ["analyse", "warmup", "--strategy", f"{folder.name}.py", "--bars", "tape.csv.gz"]
    line = [sys.executable, "-m", "training", *proof]
    process = subprocess.run(line, cwd=folder, capture_output=True, text=True, check=False, timeout=300)
    assert "No observation and no decision of a session depends on more history" in process.stdout, process.stderr


def test_a_rule_in_its_own_file_is_for_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert write("mine", "bar", "option", "--template", "plain") == 2
    assert "--template plain is for shares" in capsys.readouterr().err


def test_what_the_user_s_environment_adds_to_pytest_reaches_no_pytest_that_a_test_starts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-q")
    test = f"{Path(__file__)}::{test_its_tests_pass.__name__}[bar-option]"
    line = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "0", test]
    process = subprocess.run(line, cwd=REPOSITORY, capture_output=True, text=True, check=False, timeout=300)
    assert process.returncode == 0, process.stdout


@pytest.mark.parametrize("template", TEMPLATES)
def test_its_readme_names_the_commands_of_its_template(strategies_dir: Path, template: str) -> None:
    name = name_of("bar", "option", template)
    text = (strategies_dir / name / "README.md").read_text()
    assert f"train-and-export --strategy {name}.py --bars tape.csv.gz --activate" in text
    assert (f"python {name}_training.py tape.csv.gz model.zip" in text) == (template == "sb3")


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("option_scalper", "bar", "shares"), "'option_scalper' is a shipped strategy: choose another name"),
        (("json", "bar", "shares"), "'json' is the name of another Python module: choose another name"),
        (("numpy", "bar", "shares"), "'numpy' is the name of another Python module: choose another name"),
        (("My-Own", "bar", "shares"), "'My-Own': expected at most 30 small letters, digits and _"),
    ],
)
def test_a_name_that_cannot_be_is_refused(
    given: tuple[str, str, str],
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        write(*given)
    assert expected in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_there_and_a_kind_that_is_not_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine").mkdir()
    assert write("mine", "bar", "shares") == 2
    assert "mine is there already: choose another name" in capsys.readouterr().err
    assert write("other", "session", "option") == 2
    assert "choose --cadence bar, or --holds shares" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


def test_the_templates_are_package_data() -> None:
    text = (REPOSITORY / "pyproject.toml").read_text()
    assert '"daemon.cli" = ["templates/*.txt"]' in text
