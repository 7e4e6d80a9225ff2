"""The README is short, its commands and files are there, and its moving picture is of the recorded output."""

from __future__ import annotations

import json
import re
import runpy
import tomllib

from tests.support.paths import REPOSITORY

README = (REPOSITORY / "README.md").read_text()
GUIDE = (REPOSITORY / "docs" / "GUIDE.md").read_text()
MOST_LINES = 120


def test_it_has_120_lines_at_most() -> None:
    assert len(README.splitlines()) <= MOST_LINES


def test_each_make_command_is_a_target() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    commands = set(re.findall(r"\bmake ([a-z-]+)", README))
    assert {"demo", "test", "learn"} <= commands <= targets


def test_what_ci_runs_is_what_the_readme_asks_for_first() -> None:
    first = re.findall(r"^    make ([a-z]+)", README, re.MULTILINE)[:2]
    ci = re.findall(r"^make ([a-z]+)", (REPOSITORY / ".ci" / "run").read_text(), re.MULTILINE)
    assert first == ci == ["demo", "test"]


def test_each_link_of_the_readme_and_the_guide_leads_somewhere() -> None:
    for folder, text in ((REPOSITORY, README), (REPOSITORY / "docs", GUIDE)):
        links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text)
        assert len(links) > 10
        assert [link for link in links if not (folder / link).exists()] == []


def test_the_guide_quotes_the_verdicts_of_the_shipped_versions() -> None:
    """Of each version that a strategy's `current` names, and of no version that is no longer shipped."""
    store = REPOSITORY / "onnx_models"
    notes = {path.parent: json.loads(path.read_text())["note"] for path in store.glob("*/*/manifest.json")}
    currents = [notes[path.parent / path.read_text().strip()] for path in store.glob("*/current")]
    section = GUIDE.partition("Each report begins with its verdict:")[2].partition("\n## ")[0]
    quotes = re.findall(r'"([^"]+)"', " ".join(section.split()))
    assert len(currents) >= 5
    assert [note for note in currents if note not in quotes] == []
    assert [quote for quote in quotes if quote not in notes.values()] == []


def test_the_moving_picture_is_what_was_recorded() -> None:
    tour = REPOSITORY / "docs" / "tour"
    picture = runpy.run_path(str(tour / "make_tour.py"))["draw"](json.loads((tour / "tour.json").read_text()))
    assert picture == (tour / "tour.svg").read_text()


def test_the_version_of_the_package_is_the_newest_of_the_changelog_and_the_wheel_s() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    newest = re.findall(r"^## (\d+\.\d+\.\d+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    versions = re.findall(r"rltrader-(\d+\.\d+\.\d+)-py3", README)
    assert [newest, *versions] == [version] * 2
