"""The show succeeds only with every line, and names what it did not see."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import pytest

from simulator.clock import SimClock
from simulator.online.processes import ShowError
from simulator.online.show import CARD, LEARN, LINES, SHADOW, Moved, Show, Story
from tests.support.paths import REPOSITORY


def test_every_line_seen_ends_with_0() -> None:
    lines: list[str] = []
    story = Story(lines.append)
    for name in LINES:
        story.tell(name, f"the line {name}")
    assert story.end(seconds=61.4) == 0
    assert lines[0] == " 1  the line market"
    assert lines[-1] == f"    All {len(LINES)} were seen, in 61 s."
    assert len(lines) <= 20


def test_a_missing_line_is_named_and_ends_with_1() -> None:
    lines: list[str] = []
    story = Story(lines.append)
    for name in LINES:
        if name not in {"negated", "champion"}:
            story.tell(name, name)
            story.tell(name, "again")
    assert story.end() == 1
    assert len(lines) == len(LINES) - 2 + 1
    assert lines[-1] == "    Not seen: negated, champion."


def test_a_problem_ends_with_1_though_all_was_seen() -> None:
    lines: list[str] = []
    story = Story(lines.append)
    for name in LINES:
        story.tell(name, name)
    assert story.end("the trainer ended") == 1
    assert "the trainer ended" in lines[-2]


def test_a_challenger_that_the_ladder_refused_ends_the_show_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    moves = [Moved("b", "shadow", "refused", "a", "shadow_behind", "+4.7%, the champion's +5.9%", {})]
    show = Show(tmp_path, Story(print), 1.0, print)
    monkeypatch.setattr(show, "_challenger", "b", raising=False)
    monkeypatch.setattr(show, "_books", SimpleNamespace(moves=lambda: moves))
    monkeypatch.setattr(show, "_until", lambda _, reached: reached())
    with pytest.raises(ShowError, match=r"refused b \(shadow_behind: \+4\.7%, the champion's \+5\.9%\)"):
        show._look_at_climb(SimClock(0.0, 0), LEARN + CARD + SHADOW)


def test_an_unknown_line_is_an_error() -> None:
    with pytest.raises(ValueError, match="'encore' is no line"):
        Story(print).tell("encore", "")


def test_the_manual_lists_the_lines_of_the_show() -> None:
    manual = (REPOSITORY / "docs" / "ONLINE.md").read_text()
    listed = re.findall(r"^\d+\. `([a-z ]+)`: (.+)$", manual, re.MULTILINE)
    assert listed == list(LINES.items())
