"""The manuals: their links and headings, and the commands that they tell a reader to type."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

from tests.support.paths import REPOSITORY

_FENCE = re.compile(r"^ *```(\w*)$")
_FILE = re.compile(r"<<'(\w+)'")
_SHELLS = {"sh", "bash"}
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_BEFORE = re.compile(r"^(\w+=\S* +|sudo (-u \S+ +)?|kubectl .* -- +)+")
_INSTEAD = (
    (r"\[(.*?)\]", r"\1"),
    (r"(\S)\|\S+", r"\1"),
    (r"\bYYYY-MM-DD\b", "2024-12-02"),
    (r"(?<= )N\b", "3"),
    (r"(?<=new-strategy )NAME", "sma_cross"),
)


class Typed(NamedTuple):
    """A command of a manual: where it stands and its words, the first one without its folder.

    `partly`: the manual leaves words out, or names the command within a text. `program` is the first word as it stands.
    """

    place: str
    program: str
    words: tuple[str, ...]
    partly: bool


@cache
def manuals() -> tuple[Path, ...]:
    """Return all manuals that git knows, relative to the repository."""
    git = ["git", "-C", str(REPOSITORY), "ls-files", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run([*git, "*.md", ":!daemon"], check=True, capture_output=True, text=True).stdout
    return tuple(map(Path, listed.splitlines()))


@cache
def notebooks() -> tuple[Path, ...]:
    """Return all notebooks, relative to the repository."""
    return tuple(path.relative_to(REPOSITORY) for path in sorted((REPOSITORY / "docs" / "notebooks").glob("*.ipynb")))


def links(manual: Path) -> Iterator[str]:
    """Yield where the links of a manual lead, those to other hosts left out."""
    for link in _LINK.findall(re.sub(r"`[^`\n]*`", "", _prose(manual))):
        if "://" not in link:
            yield link


@cache
def anchors(manual: Path) -> frozenset[str]:
    """Return the anchors of a manual's headings, as a code host makes them."""
    titles = re.findall(r"^#+ (.+)$", _prose(manual), re.MULTILINE)
    plain = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading) for heading in titles)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in plain)


def _prose(manual: Path) -> str:
    """Return a manual without its blocks."""
    lines, fenced = [], False
    for line in (REPOSITORY / manual).read_text().splitlines():
        if _FENCE.match(line):
            fenced = not fenced
        elif not fenced:
            lines.append(line)
    return "\n".join(lines)


def commands(manual: Path) -> Iterator[Typed]:
    """Yield each command of the blocks of a manual, or of the cells of a notebook, as one types them."""
    file_ends = ""  # the word that ends a file which the block writes
    for place, line in _lines(manual):
        if file_ends:
            file_ends = "" if line == file_ends else file_ends
            continue
        if written := _FILE.search(line):
            file_ends = written[1]
        without = re.sub(r"(^|\s)#(\s.*|$)", "", line)
        for part in re.split(r" *(?:;|&&|\|\||(?<= )\|(?= )) *", without):
            text = _BEFORE.sub("", part.strip())
            if not text or "<<" in text:
                continue
            text = re.sub(r" *\d?>+ *\S+", "", text)
            partly = "…" in text
            for before, after in _INSTEAD:
                text = re.sub(before, after, text)
            try:
                words = shlex.split(text.replace("…", " "))
            except ValueError:  # a part of a longer text in quotes
                continue
            if words:
                yield Typed(place, words[0], (words[0].rpartition("/")[2], *words[1:]), partly)


def named(manual: Path, programs: frozenset[str]) -> Iterator[Typed]:
    """Yield each command of these programs that a manual names within its text."""
    for text in re.findall(r"`([^`]+)`", _prose(manual)):
        words = re.sub(r"[\[\]…]", " ", " ".join(text.split())).split()
        if words and words[0].rpartition("/")[2] in programs:
            yield Typed(str(manual), words[0], (words[0].rpartition("/")[2], *words[1:]), partly=True)


def _lines(manual: Path) -> Iterator[tuple[str, str]]:
    """Yield the lines of shell blocks with their place; a line that ends in a backslash with those after it.

    Indented lines are a block, but for those of a list, whose blocks have a fence.
    """
    if manual.suffix == ".ipynb":
        for cell in json.loads((REPOSITORY / manual).read_text())["cells"]:
            lines = re.findall(r"^!(.+)$", "".join(cell["source"]), re.MULTILINE)
            yield from ((f"{manual}: {cell['id']}", line) for line in lines)
        return
    language: str | None = None
    before, begun, listed = "", 0, False
    for number, line in enumerate((REPOSITORY / manual).read_text().splitlines(), start=1):
        if match := _FENCE.match(line):
            language = None if language is not None else match[1]
            continue
        if language is None and line and not line.startswith(" "):
            listed = re.match(r"([-*]|\d+\.) ", line) is not None
        typed = language in _SHELLS if language is not None else line.startswith("    ") and not listed
        if not typed:
            continue
        begun = begun or number
        text = before + line.strip()
        if text.endswith("\\") or text.count('"') % 2:
            before = f"{text.removesuffix(chr(92))} "
            continue
        yield f"{manual}:{begun}", text
        before, begun = "", 0
