"""What the manuals ask a reader to type and to follow is there: links, headings, options, targets, pages."""

from __future__ import annotations

import re
import runpy
import tomllib
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from tests.support.manuals import Typed, anchors, commands, links, manuals, named, notebooks
from tests.support.paths import REPOSITORY

SITE = REPOSITORY / "docs" / "site"
REFERENCE: dict[str, Any] = runpy.run_path(str(SITE / "reference.py"))
PROGRAMS = frozenset(REFERENCE["programs"]())
NOT_RUN = {
    "changes the host: its packages, services, users and files": (
        "apt-get", "chmod", "chown", "cp", "diff", "install", "ln", "mkdir", "mv", "rm", "systemctl",
        "systemd-ask-password", "systemd-run",
    ),
    "needs a cluster, a registry or another host": ("buildah", "docker", "git", "kubectl", "ssh"),
    "is another program, which its own manual explains": (
        "chronyc", "grep", "journalctl", "mosquitto_passwd", "openssl", "promtool", "sqlite3", "strace",
    ),
    "is the shell's own": (
        ".", "as_daemon", "as_daemon()", "cd", "do", "done", "echo", "export", "for", "printf", "sed", "tr",
        "true", "}",
    ),
}  # fmt: skip
"""Why no test runs or parses these programs of the manuals, a line for each reason."""


def test_each_link_between_the_manuals_leads_to_a_file_and_to_a_heading() -> None:
    wrong = []
    count = 0
    for manual in manuals():
        for link in links(manual):
            path, _, anchor = link.partition("#")
            target = ((REPOSITORY / manual).parent / path).resolve() if path else REPOSITORY / manual
            count += 1
            if not target.is_file() or (anchor and anchor not in anchors(target.relative_to(REPOSITORY))):
                wrong.append((str(manual), link))
    assert count > 200
    assert wrong == []


def test_each_manual_has_one_place_in_the_navigation_of_the_site() -> None:
    text = (SITE / "zensical.toml").read_text()
    pages = re.findall(r'= "([\w/.-]+\.md)"', text.partition("[project.plugins")[0])
    site_pages = {f"reference/{program}.md" for program in PROGRAMS} | {"reference/configuration.md"}
    site_pages |= {f"docs/notebooks/{path.stem}.md" for path in (REPOSITORY / "docs" / "notebooks").glob("*.ipynb")}
    assert len(pages) == len(set(pages))
    assert set(pages) == {str(manual) for manual in manuals()} | site_pages
    tomllib.loads(text)


def test_each_command_line_of_the_manuals_is_parsed_by_its_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run_file = re.findall(r"```toml\n(strategy = .+?)```", (REPOSITORY / "docs" / "TRAINING.md").read_text(), re.DOTALL)
    (tmp_path / "study.toml").write_text(run_file[0])
    monkeypatch.chdir(tmp_path)
    pages = (*manuals(), *notebooks())
    typed = [command for page in pages for command in commands(page) if command.words[0] in PROGRAMS]
    wrong = {
        f"{command.place}: {' '.join(command.words)}": problem
        for command in typed
        if (problem := _problem(command, capsys))
    }
    assert len(typed) > 140
    assert wrong == {}


def test_each_command_that_a_manual_names_in_its_text_is_there_with_its_options() -> None:
    command_lines = [command for manual in manuals() for command in named(manual, PROGRAMS)]
    wrong = [
        (command.place, " ".join(command.words), problem)
        for command in command_lines
        if (problem := _unknown(command.words))
    ]
    assert len(command_lines) > 100
    assert wrong == []


def test_every_other_command_of_the_manuals_is_a_target_a_module_or_has_a_reason_not_to_be_run() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE))
    reasons = {program for programs in NOT_RUN.values() for program in programs}
    wrong, program_names = [], set()
    for command in (command for manual in manuals() for command in commands(manual)):
        match command.words:
            case (program, *_) if program in PROGRAMS:
                continue
            case ("make", *words) if {word for word in words if "=" not in word} <= targets:
                continue
            case ("python", "-m", module, *_) if find_spec(module) is not None:
                continue
            case ("python", "-c", text):
                compile(text, command.place, "exec")
            case (program, *_) if program in reasons or (REPOSITORY / command.program).is_file():
                program_names.add(program)
            case _:
                wrong.append((command.place, " ".join(command.words)))
    assert wrong == []
    assert reasons <= program_names  # no reason for what no manual has


@cache
def _parsers(program: str) -> dict[tuple[str, ...], Any]:
    return {command.words: command.parser for command in REFERENCE["commands"](program)}


def _problem(line: Typed, capsys: pytest.CaptureFixture[str]) -> str:
    """Return why its program refuses a command line, "" where it does not."""
    if line.partly:
        return _unknown(line.words)
    try:
        REFERENCE["parse"](line.words[0], line.words[1:])
    except SystemExit as exit_info:
        return "" if exit_info.code == 0 else capsys.readouterr().err.strip().rpartition("\n")[2]
    return ""


def _unknown(words: tuple[str, ...]) -> str:
    """Return what of these words the program does not know: a command or an option."""
    parsers_by_name = _parsers(words[0])
    command = max((name for name in parsers_by_name if words[1 : 1 + len(name)] == name), key=len)
    rest = words[1 + len(command) :]
    parsers = [parsers_by_name[command[:length]] for length in range(len(command) + 1)]
    options = {option for parser in parsers for option in parser._option_string_actions} | {"--"}
    unknown = [word for word in rest if word.startswith("--") and word.partition("=")[0] not in options]
    inner = {
        name[len(command)] for name in parsers_by_name if len(name) > len(command) and name[: len(command)] == command
    }
    if inner and rest and re.fullmatch(r"[a-z-]+", rest[0]) and not rest[0].startswith("-"):
        unknown.append(rest[0])
    return ", ".join(unknown)


def test_the_reference_has_every_key_and_every_option() -> None:
    page = REFERENCE["configuration_page"]()
    keys = tomllib.loads((REPOSITORY / "config.toml").read_text())
    missing = [key for table in keys.values() for key in table if f"\n| `{key}` |" not in page]
    assert missing == []
    for program in ("rltraderd", "rltraderctl"):
        reference_page = REFERENCE["command_page"](program)
        assert "--state-dir DIR" in reference_page
        assert reference_page.count("\n#") == len(_parsers(program)) - 1


def test_the_site_s_icon_is_there() -> None:
    icon = re.findall(r'favicon = "(.+)"', (SITE / "zensical.toml").read_text())
    assert [Path(name).suffix for name in icon] == [".svg"]
    assert (REPOSITORY / icon[0]).is_file()
