"""Every command prints the version of its package, and a line to type has a program as the shell finds it."""

from __future__ import annotations

import os
import sys
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from daemon.host.version import in_this_shell
from tests.support.paths import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize(("command", "place"), PROJECT["scripts"].items())
def test_every_command_prints_its_name_and_the_version(
    command: str, place: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module, _, function = place.partition(":")
    monkeypatch.setattr(sys, "argv", [command, "--version"])
    with pytest.raises(SystemExit) as ended:
        sys.exit(getattr(import_module(module), function)())
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out == f"{command} {PROJECT['version']}\n"


def test_a_command_to_type_works_in_this_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, other = (tmp_path / name / "bin" / "rltraderctl" for name in ("environment", "other"))
    for file in (ours, other):
        file.parent.mkdir(parents=True)
        file.touch(0o755)
    monkeypatch.setattr(sys, "executable", str(ours.parent / "python"))
    monkeypatch.chdir(tmp_path)

    def typed(*search: Path) -> str:
        monkeypatch.setenv("PATH", os.pathsep.join(map(str, search)))
        return in_this_shell("rltraderctl trades --limit 3")

    assert typed(ours.parent, other.parent) == "rltraderctl trades --limit 3"
    assert typed(other.parent) == typed() == "environment/bin/rltraderctl trades --limit 3"
    monkeypatch.chdir(ours.parent)
    assert typed() == "./rltraderctl trades --limit 3"
    monkeypatch.chdir("/")
    assert typed() == f"{str(ours).lstrip('/')} trades --limit 3"
    ours.unlink()
    assert typed() == "rltraderctl trades --limit 3"
