"""Releases lie side by side on a trading host: `make install` again, the way back, and what `make prune` removes.

The Makefile is the real one. Its Python stands for pip's minute of work: it copies the sources that pip would install.
"""

from __future__ import annotations

import mmap
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY

PYTHON = """#!/bin/sh
here=$(dirname "$0")
case "$1 $2" in
"-m venv") mkdir -p "$3/bin"; cp "$0" "$3/bin/python"; touch "$3/pyvenv.cfg" ;;
"-m pip") [ ! -e broken ] || exit 1; cp -r daemon "$here/../lib" ;;
*) sha256sum < "$here/../lib/core.py" | cut -c1-12 ;;
esac
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A checkout with one file of code, in its first version."""
    path = tmp_path / "source"
    for folder in ("docs", "systemd"):
        shutil.copytree(REPOSITORY / folder, path / folder)
    for folder in ("daemon", "rltrader", "strategies", "onnx_models", ".venv/bin"):
        (path / folder).mkdir(parents=True)
    for file in ("Makefile", "pyproject.toml", "constraints.txt", "config.toml"):
        shutil.copy(REPOSITORY / file, path)
    (path / "daemon" / "core.py").write_text("first")
    (path / ".venv/bin/python").write_text(PYTHON)
    (path / ".venv/bin/python").chmod(0o755)
    return path


@pytest.fixture
def host(tmp_path: Path) -> Path:
    return tmp_path / "host" / "opt" / "rltrader"


def make(source: Path, host: Path, target: str = "install", code: int = 0) -> str:
    result = subprocess.run(
        ["make", target, f"DESTDIR={host.parent.parent}"],
        cwd=source,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert result.returncode == code, result.stdout + result.stderr
    return result.stdout


def leads(host: Path, link: str) -> str:
    return str((host / link).readlink())


def install(source: Path, host: Path, version: str) -> str:
    """Install this version; returns where `current` leads then."""
    (source / "daemon" / "core.py").write_text(version)
    make(source, host)
    return leads(host, "current")


def code(host: Path, link: str) -> str:
    """The code that a link leads to."""
    return (host / link / "venv" / "lib" / "core.py").read_text()


def content(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {f: (f.read_bytes(), f.stat().st_mtime_ns) for f in folder.rglob("*") if f.is_file()}


def test_a_second_install_switches_and_leaves_the_former_release_as_it_is(source: Path, host: Path) -> None:
    first = install(source, host, "first")
    assert not (host / "former").exists()
    before = content(host / first)
    second = install(source, host, "second")
    assert second != first
    assert (code(host, "current"), code(host, "former")) == ("second", "first")
    assert content(host / first) == before
    contents = content(host / second)
    assert "it is there already" in make(source, host)  # the same once more
    assert (leads(host, "current"), leads(host, "former")) == (second, first)
    assert content(host / second) == contents
    assert (host / first / "code").read_text() != (host / second / "code").read_text()


def test_the_manual_s_way_back_leads_to_the_former_release_and_an_install_forward_again(
    source: Path, host: Path
) -> None:
    first, second = install(source, host, "first"), install(source, host, "second")
    (line,) = re.findall(
        r"^ +(ln -sfn .*former.*)$", (REPOSITORY / "docs" / "TRADING_HOST.md").read_text(), re.MULTILINE
    )
    subprocess.run(line.replace("/opt/rltrader", str(host)), shell=True, check=True)
    assert (leads(host, "current"), code(host, "current")) == (first, "first")
    assert install(source, host, "second") == second
    assert (code(host, "current"), code(host, "former")) == ("second", "first")


def test_a_shipped_version_of_a_name_that_is_there_stays_as_it_is_and_is_named(source: Path, host: Path) -> None:
    for word in ("first", "second"):
        (source / "onnx_models/desk" / word).mkdir(parents=True)
        (source / "onnx_models/desk" / word / "manifest.json").write_text("one")
    assert "stays" not in make(source, host)
    (source / "onnx_models/desk/first/manifest.json").write_text("other")
    printed = make(source, host)
    assert "/onnx_models/desk/first is another version of this name, and stays" in printed
    assert printed.count("stays") == 1
    assert (host / "onnx_models/desk/first/manifest.json").read_text() == "one"


def test_an_install_that_fails_leaves_the_current_release_and_the_next_one_makes_it_whole(
    source: Path, host: Path
) -> None:
    first = install(source, host, "first")
    (source / "daemon" / "core.py").write_text("second")
    (source / "broken").touch()
    make(source, host, code=2)
    assert leads(host, "current") == first
    (source / "broken").unlink()
    assert install(source, host, "second") != first
    assert code(host, "current") == "second"


def test_prune_removes_what_no_link_names_and_no_process_uses(source: Path, host: Path) -> None:
    releases = [install(source, host, version) for version in ("first", "second", "third", "fourth")]
    with (host / releases[1] / "venv" / "lib" / "core.py").open("rb") as file:
        mapped = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)  # as a daemon that runs has its libraries
    output = make(source, host, "prune")
    assert f"{releases[1]} stays: a process runs from it" in output
    folders = {f"releases/{path.name}" for path in (host / "releases").iterdir()}
    assert folders == set(releases[1:])
    mapped.close()
    make(source, host, "prune")
    assert {f"releases/{path.name}" for path in (host / "releases").iterdir()} == set(releases[2:])
    assert (code(host, "current"), code(host, "former")) == ("fourth", "third")
