"""Every command prints the version of its package, and a line to type has a program as the shell finds it."""

from __future__ import annotations

import os
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from daemon.cli import ctl
from daemon.host.version import in_this_shell
from tests.support.paths import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(("command", "place"), PROJECT["scripts"].items())
def test_every_command_prints_its_name_and_the_version(
    command: str, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, function = place.partition(":")
    monkeypatch.setattr(sys, "argv", [command, "--version"])
    with pytest.raises(SystemExit) as exit_info:
        sys.exit(getattr(import_module(module), function)())
    assert exit_info.value.code in (0, None)
    assert capsys.readouterr().out == f"{command} {PROJECT['version']}\n"


@pytest.mark.parametrize(
    "command", sorted(PROJECT["scripts"].keys() - {"rltrader", "rltrader-trainer", "train-and-export"})
)
def test_every_command_names_the_option_that_was_meant(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, function = PROJECT["scripts"][command].partition(":")
    monkeypatch.setattr(sys, "argv", [command, "--vresion"])
    with pytest.raises(SystemExit) as exit_info:
        sys.exit(getattr(import_module(module), function)())
    assert exit_info.value.code == 2
    assert capsys.readouterr().err.endswith("no option is called '--vresion'; did you mean --version?\n")


@pytest.mark.parametrize(
    ("words", "refusal"),
    [
        ("trades --limti 3", "no option is called '--limti'; did you mean --limit?"),
        ("trades --xyzzy=5", "no option is called '--xyzzy'; rltraderctl trades --help lists all"),
        ("trades 3", "'3' is one argument too many; rltraderctl trades --help lists all"),
        ("trades -x", "'-x' is one argument too many; rltraderctl trades --help lists all"),
        ("close --whoo me", "no option is called '--whoo'; did you mean --who?"),  # before the symbol that is missing
    ],
)
def test_an_unknown_option_ends_with_the_usage_of_its_command(
    words: str, refusal: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = f"rltraderctl {words.split(maxsplit=1)[0]}"
    with pytest.raises(SystemExit) as exit_info:
        ctl.main(words.split(), "rltraderctl")
    message = capsys.readouterr().err
    assert exit_info.value.code == 2
    assert message.startswith(f"usage: {command} [-h]")
    assert message.endswith(f"{command}: error: {refusal}\n")


def test_a_command_to_type_works_in_this_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own_program, other = (tmp_path / name / "bin" / "rltraderctl" for name in ("environment", "other"))
    for file in (own_program, other):
        file.parent.mkdir(parents=True)
        file.touch(0o755)
    monkeypatch.setattr(sys, "executable", str(own_program.parent / "python"))
    monkeypatch.chdir(tmp_path)

    def typed(*search: Path) -> str:
        monkeypatch.setenv("PATH", os.pathsep.join(map(str, search)))
        return in_this_shell("rltraderctl trades --limit 3")

    assert typed(own_program.parent, other.parent) == "rltraderctl trades --limit 3"
    assert typed(other.parent) == typed() == "environment/bin/rltraderctl trades --limit 3"
    monkeypatch.chdir(own_program.parent)
    assert typed() == "./rltraderctl trades --limit 3"
    monkeypatch.chdir("/")
    assert typed() == f"{str(own_program).lstrip('/')} trades --limit 3"
    own_program.unlink()
    assert typed() == "rltraderctl trades --limit 3"
