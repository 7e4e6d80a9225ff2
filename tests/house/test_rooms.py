"""Folders and files stay small enough to read at a glance."""

from __future__ import annotations

import ast
import re
import subprocess
from collections import Counter
from pathlib import Path

from tests.support.paths import REPOSITORY

MOST_FILES = 15
MOST_LINES = 400
MANY_MODULES, MOST_WIDE = 20, 10
PRODUCT = [
    path for room in ("daemon", "strategies", "training", "simulator") for path in (REPOSITORY / room).rglob("*.py")
]


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


def test_no_file_of_the_product_has_more_than_400_lines() -> None:
    lines = {str(path.relative_to(REPOSITORY)): path.read_text().count("\n") for path in PRODUCT}
    assert len(lines) > 500
    assert {name: count for name, count in lines.items() if count > MOST_LINES} == {}


def test_the_example_of_a_broker_has_fewer_than_300_lines() -> None:
    assert (REPOSITORY / "tests" / "support" / "toy_broker.py").read_text().count("\n") < 300


def test_at_most_ten_modules_import_more_than_twenty() -> None:
    """Libraries count; `from a.b import c` is one of a.b, unless c is a module itself."""
    own = {".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__") for path in PRODUCT}
    wide = {}
    for path in PRODUCT:
        found = {"__future__"}
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                found |= {name.name for name in node.names}
            elif isinstance(node, ast.ImportFrom):
                names = {f"{node.module}.{name.name}" for name in node.names}
                found |= names & own | ({str(node.module)} if names - own else set())
        if len(found) - 1 > MANY_MODULES:
            wide[str(path.relative_to(REPOSITORY))] = len(found) - 1
    assert len(wide) <= MOST_WIDE, wide


def test_no_test_module_imports_a_conftest_or_a_test_module() -> None:
    found = {}
    for path in (REPOSITORY / "tests").rglob("*.py"):
        names = []
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                names += [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                names += [f"{node.module or ''}.{name.name}" for name in node.names]
        wrong = [name for name in names if re.search(r"(^|\.)(conftest|test_\w*)(\.|$)", name)]
        if wrong:
            found[str(path.relative_to(REPOSITORY))] = wrong
    assert found == {}
