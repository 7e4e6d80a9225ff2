"""Every command prints the version of its package."""

from __future__ import annotations

import sys
import tomllib
from importlib import import_module

import pytest

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
