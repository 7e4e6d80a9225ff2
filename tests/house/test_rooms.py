"""What the tree promises: a toy broker of readable size, tests that import no tests, one way to set a draft's book."""

from __future__ import annotations

import ast
import re

from tests.support.paths import REPOSITORY


def test_the_example_of_a_broker_has_fewer_than_300_lines() -> None:
    assert (REPOSITORY / "tests" / "support" / "toy_broker.py").read_text().count("\n") < 300


def test_no_test_module_imports_a_conftest_or_a_test_module() -> None:
    problems = {}
    for path in (REPOSITORY / "tests").rglob("*.py"):
        names = []
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                names += [name.name for name in node.names]
            elif isinstance(node, ast.ImportFrom):
                names += [f"{node.module or ''}.{name.name}" for name in node.names]
        wrong = [name for name in names if re.search(r"(^|\.)(conftest|test_\w*)(\.|$)", name)]
        if wrong:
            problems[str(path.relative_to(REPOSITORY))] = wrong
    assert problems == {}


def test_only_put_book_sets_the_book_of_a_draft() -> None:
    """A position that moves beside it would have no row among the moves."""
    lines = []
    for path in (REPOSITORY / "daemon").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_bytes())):
            match node:
                case ast.Attribute(value=ast.Name(id="draft"), attr="book", ctx=ast.Store(), lineno=line):
                    lines.append(f"{path.relative_to(REPOSITORY)}:{line}")
    assert lines == []
