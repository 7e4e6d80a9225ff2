"""How a walk is cut out of a trace, by hand; and how far one reads at most, on a desk that runs."""

from __future__ import annotations

from pathlib import Path

from bench.walk import Row, daily_walks, minute_walks, path_of, walk
from tests.support.paths import REPOSITORY

TRACE: list[Row] = [
    ("main", "c", "daemon/a.py:1:listen"),
    ("main", "m", "frame b:SPY"),
    ("main", "c", "daemon/b.py:1:bar"),
    ("main", "c", "daemon/operator/log.py:1:say"),
    ("main", "c", "daemon/c.py:9:word"),  # below an observer
    ("main", "r", "daemon/c.py:9:word"),
    ("main", "r", "daemon/operator/log.py:1:say"),
    ("queue-read", "c", "daemon/d.py:1:send"),
    ("main", "c", "daemon/b.py:5:part"),
    ("main", "r", "daemon/b.py:5:part"),
    ("main", "r", "daemon/b.py:1:bar"),
    ("main", "r", "daemon/a.py:1:listen"),
    ("main", "m", "frame q:QQQ"),
    ("main", "c", "daemon/e.py:1:other"),
    ("main", "r", "daemon/e.py:1:other"),
    ("main", "c", "daemon/f.py:1:order"),
    ("main", "m", "order buy SPY"),
]


def on_main(thread: str) -> bool:
    return thread == "main"


def beside(place: str, _: int) -> bool:
    return place.startswith("daemon/operator/") or place == "frame q:QQQ"


def test_a_walk_has_what_was_on_the_stack_and_all_that_was_called_since() -> None:
    result = walk("all", path_of(TRACE, 1, len(TRACE), threads=on_main))
    assert list(result.files) == [f"daemon/{name}.py" for name in ("a", "b", "operator/log", "c", "e", "f")]
    assert (len(result.functions), result.files["daemon/b.py"]) == (7, 2)
    assert result.changes == 8  # a b log c log b a e f


def test_what_is_left_out_takes_all_below_it_along() -> None:
    result = walk("alone", path_of(TRACE, 1, len(TRACE), threads=on_main, leave_out=beside))
    assert list(result.files) == ["daemon/a.py", "daemon/b.py", "daemon/f.py"]


BAR = "bar -> order, nothing beside"
FILES = {
    "start -> Engine.run": 91,
    BAR: 30,
    "fill -> journal's row": 25,
    "daily decision -> first order, nothing beside": 43,
}
"""The most files of each walk. Which waits for a thread it meets is by chance, so two walks have to meet what counts.

Who raises one says why in the commit.
"""
FUNCTIONS = 214  # of the walk of a bar


def test_no_walk_is_longer_than_it_was_and_the_manual_lists_the_one_of_a_bar(tmp_path: Path) -> None:
    by_name = {one.name: one for walks in (minute_walks, daily_walks) for one in walks(tmp_path)}
    longer = {name for name, most in FILES.items() if len(by_name[name].files) > most}
    bar = by_name[BAR]
    if longer or len(bar.functions) > FUNCTIONS:
        again = {one.name: one for walks in (minute_walks, daily_walks) for one in walks(tmp_path / "again")}
        in_both = {name: set(by_name[name].files) & set(again[name].files) for name in longer}
        assert {name: sorted(files) for name, files in in_both.items() if len(files) > FILES[name]} == {}
        assert len(set(bar.functions) & set(again[BAR].functions)) <= FUNCTIONS
    manual = (REPOSITORY / "docs" / "ARCHITECTURE.md").read_text()
    assert len([file for file in bar.files if f"`{file}`" not in manual]) <= FILES[bar.name] - len(bar.files)
