"""Each defect's patch applies to this tree, says what it puts back, and names tests that there are."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.support.paths import REPOSITORY
from tests.years.defects import COPIED, FOLDER, defects, patched, with_defect

README = (FOLDER / "README.md").read_text(encoding="utf-8")
COLUMNS = 5


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("|").split(" | ")]


ROWS = {row[0].strip("`"): row for line in README.splitlines() if len(row := cells(line)) == COLUMNS and "`" in row[0]}
"""Defect -> its row: the patch, what goes wrong, what has to happen, what is broken then, its tests."""


def test_each_patch_has_its_row_and_each_row_its_patch() -> None:
    assert sorted(ROWS) == list(defects())


@pytest.mark.parametrize("name", defects())
def test_it_applies_once_to_code_that_watched_desks_run_and_leaves_python(name: str) -> None:
    for path, text in patched(name).items():
        compile(text, path, "exec")
        assert path.partition("/")[0] in ("daemon", "strategies")
        assert text != (REPOSITORY / path).read_text(encoding="utf-8")


def test_git_applies_them_too() -> None:
    if shutil.which("git") is None or not (REPOSITORY / ".git").exists():
        pytest.skip("this tree is no checkout, or there is no git")
    for name in defects():
        command = ("git", "apply", "--check", str(FOLDER / f"{name}.patch"))
        result = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert (result.returncode, result.stderr) == (0, ""), name


def test_each_row_says_all_and_names_tests_that_there_are() -> None:
    files = [path for path in (REPOSITORY / "tests").rglob("test_*.py") if path != Path(__file__)]
    there = set(re.findall(r"def (test_\w+)", "\n".join(path.read_text(encoding="utf-8") for path in files)))
    assert set(re.findall(r"`(test_\w+)`", README)) <= there
    for name, row in ROWS.items():
        assert all(row), name
        assert re.findall(r"`(test_\w+)`", row[-1]), name


def test_a_copy_has_the_defect_and_is_whole(tmp_path: Path) -> None:
    name = defects()[0]
    copy = with_defect(name, tmp_path / "copy")
    assert sorted(path.name for path in copy.iterdir()) == sorted(COPIED)
    files = [
        path.relative_to(copy).as_posix()
        for path in copy.rglob("*.py")
        if path.read_bytes() != (REPOSITORY / path.relative_to(copy)).read_bytes()
    ]
    assert files == list(patched(name))


def test_a_patch_of_other_code_is_refused_by_name(tmp_path: Path) -> None:
    name = defects()[0]
    (path,) = patched(name)
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_text("# other code\n")
    with pytest.raises(ValueError, match=rf"{name}\.patch: its text stands 0 times in {path}"):
        patched(name, tmp_path)
