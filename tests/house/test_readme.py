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


def test_each_strategy_s_page_begins_with_the_verdicts_of_its_shipped_versions() -> None:
    """The active one first, each word for word, and none of a version that is no longer shipped."""
    shelves = [path.parent for path in (REPOSITORY / "onnx_models").glob("*/current")]
    assert len(shelves) >= 5
    for shelf in shelves:
        page = (REPOSITORY / "docs" / "strategies" / f"{shelf.name}.md").read_text()
        first = page.partition("\n## ")[2].partition("\n## ")[0]
        quoted = re.findall(r"^- `([\w-]+)`(?: \((.+?)\))?: (.+)$", first, re.MULTILINE)
        notes = {path.parent.name: json.loads(path.read_text())["note"] for path in shelf.glob("*/manifest.json")}
        assert {version: note for version, _, note in quoted} == notes
        active = (shelf / "current").read_text().strip()
        assert [version for version, facts, _ in quoted if facts.startswith("active")] == [active] == [quoted[0][0]]


def test_the_moving_picture_is_what_was_recorded() -> None:
    tour = REPOSITORY / "docs" / "tour"
    picture = runpy.run_path(str(tour / "make_tour.py"))["draw"](json.loads((tour / "tour.json").read_text()))
    assert picture == (tour / "tour.svg").read_text()


def test_the_version_of_the_package_is_the_newest_of_the_changelog_and_the_wheel_s() -> None:
    version = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["version"]
    newest = re.findall(r"^## (\d+\.\d+\.\d+)", (REPOSITORY / "CHANGELOG.md").read_text(), re.MULTILINE)[0]
    versions = re.findall(r"rltrader-(\d+\.\d+\.\d+)-py3", README)
    assert [newest, *versions] == [version] * 2
