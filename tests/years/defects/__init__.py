"""Defects that were mended once, each as a small patch that puts it back: who watches desks has to find them.

`README.md` has a row for each. A patch is a unified diff against the present tree; who moves the code that it changes
makes it again. What it replaces has to stand exactly once in its file: nothing is patched in a place that only looks
alike.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from tests.support.paths import REPOSITORY

FOLDER = Path(__file__).parent
COPIED = ("daemon", "rltrader", "simulator", "strategies", "tests")
_HUNK = re.compile(r"^@@ .*$\n", re.MULTILINE)


def defects() -> tuple[str, ...]:
    """Return the name of each defect."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.patch")))


def patched(name: str, root: Path = REPOSITORY) -> dict[str, str]:
    """Return path -> text of each file of `root` that this defect changes, with the defect.

    Raises FileNotFoundError for no such defect or file, ValueError where a part of it does not apply.
    """
    texts: dict[str, str] = {}
    for path, old, new in _parts((FOLDER / f"{name}.patch").read_text(encoding="utf-8")):
        text = texts[path] if path in texts else (root / path).read_text(encoding="utf-8")
        if (times := text.count(old)) != 1:
            raise ValueError(f"{name}.patch: its text stands {times} times in {path}, expected once: make it again")
        texts[path] = text.replace(old, new)
    if not texts:
        raise ValueError(f"{name}.patch changes nothing: expected a unified diff")
    return texts


def with_defect(name: str, folder: Path) -> Path:
    """Copy what a watched desk needs into `folder`, with this defect; returns `folder`. Raises as `patched`."""
    return copied(patched(name), folder)


def copied(texts: Mapping[str, str], folder: Path) -> Path:
    """Copy what a watched desk needs into `folder`, with these texts in place of their files'; returns `folder`.

    Bytecode comes with it, for the modules that stay as they are; pytest's own has no reader there.
    """
    for package in COPIED:
        shutil.copytree(REPOSITORY / package, folder / package, ignore=shutil.ignore_patterns("*-pytest-*.pyc"))
    for path, text in texts.items():
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def _parts(diff: str) -> Iterator[tuple[str, str, str]]:
    """Yield path, old text and new text of each hunk."""
    for of_file in re.split(r"^diff --git .*$\n", diff, flags=re.MULTILINE)[1:]:
        head, *hunks = _HUNK.split(of_file)
        path = head.rpartition("+++ b/")[2].strip()
        for hunk in hunks:
            lines = hunk.splitlines()
            yield path, _side(lines, "-"), _side(lines, "+")


def _side(lines: list[str], sign: str) -> str:
    """Return the lines of one side of a hunk with those of both; an editor may have left an empty line bare."""
    return "".join(f"{line[1:]}\n" for line in lines if line[:1] in ("", " ", sign))
