from __future__ import annotations

import json
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest

from tests.years.find import FAILED, Tree, first_problem
from tests.years.focused import FOCUSED
from tests.years.mutants import draw_mutants, mutated, shares

FILE = "daemon/core/some.py"
OLD = "def a():\n    return 1\n\n\ndef b():\n    return 1\n\n\ndef c():\n    return 1\n"


def _row(outcome: str, old: str = OLD, new: str = OLD, line: int = 6) -> dict[str, Any]:
    mutant = {"area": "core", "file": FILE, "operator": "core/NumberReplacer", "occurrence": line, "line": line}
    diff = "".join(unified_diff(old.splitlines(True), new.splitlines(True), n=1))  # as the sample writes it
    return {"mutant": mutant, "outcome": outcome, "diff": diff}


def _tree(folder: Path, text: str) -> Path:
    (folder / FILE).parent.mkdir(parents=True)
    (folder / FILE).write_text(text)
    return folder


def test_a_change_is_made_at_its_line_though_others_look_alike(tmp_path: Path) -> None:
    new = "def a():\n    return 1\n\n\ndef b():\n    return 2\n\n\ndef c():\n    return 1\n"
    assert mutated(_row("killed", OLD, new), _tree(tmp_path, OLD)) == {FILE: new}


def test_changes_of_two_places_are_both_made(tmp_path: Path) -> None:
    new = "def a():\n    x = 1\n    return x\n\n\ndef b():\n    return 1\n\n\ndef c():\n    return 3\n"
    assert mutated(_row("killed", OLD, new), _tree(tmp_path, OLD)) == {FILE: new}


def test_a_file_that_moved_since_the_sample_is_refused(tmp_path: Path) -> None:
    row = _row("killed", OLD, OLD.replace("1", "2", 1))
    with pytest.raises(ValueError, match=r"daemon/core/some.py, line 1: .*sample this commit anew"):
        mutated(row, _tree(tmp_path, f"import os\n{OLD}"))


def test_as_many_killed_ones_as_asked_for_are_drawn_and_all_that_survived(tmp_path: Path) -> None:
    rows = [_row(outcome, line=place) for place, outcome in enumerate(["killed"] * 9 + ["survived", "unreached"] * 3)]
    sample = tmp_path / "tried.jsonl"
    sample.write_text("".join(json.dumps(row) + "\n" for row in rows))
    one, same, other = (draw_mutants(sample, 4, seed) for seed in (1, 1, 2))
    assert [row["outcome"] for row in one] == ["killed"] * 4 + ["survived"] * 3
    assert one == same
    assert one != other


def test_the_shares_are_of_each_kind() -> None:
    rows = [{"outcome": "killed", "found": place < 2} for place in range(3)]
    assert shares([*rows, {"outcome": "survived", "found": False}]) == (
        "killed by the tests: found 2 of 3; survived by the tests: found 0 of 1"
    )


def test_an_interpreter_that_does_not_start_breaks_its_run(tmp_path: Path) -> None:
    def unreadable(folder: Path) -> Path:
        (folder / "tests").mkdir(parents=True)
        (folder / "tests" / "__init__.py").write_text("raise ImportError('changed')")
        return folder

    with Tree(unreadable, tmp_path) as tree:
        problem = first_problem(tree, FOCUSED["unknown_ledger_kind_halts"])
    assert problem is not None
    assert problem.rule == FAILED
    assert "its interpreter ended with 1" in problem.text
