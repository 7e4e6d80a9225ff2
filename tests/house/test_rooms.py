"""Folders stay small enough to read at a glance."""

from __future__ import annotations

import subprocess
from collections import Counter
from pathlib import Path

from tests.support.paths import REPOSITORY

MOST_FILES = 15


def test_no_folder_has_more_than_fifteen_python_files() -> None:
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", "*.py"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=False,
    )
    if listed.returncode:  # an export without the repository's history
        files = [str(path.relative_to(REPOSITORY)) for path in REPOSITORY.rglob("*.py") if ".venv" not in path.parts]
    else:
        files = [name for name in listed.stdout.splitlines() if (REPOSITORY / name).exists()]
    assert len(files) > 500
    folders = Counter(str(Path(name).parent) for name in files)
    assert {folder: count for folder, count in folders.items() if count > MOST_FILES} == {}
