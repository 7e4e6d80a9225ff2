"""A run as the library lists it: its facts, results and course. Data and arithmetic only."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from daemon.library.run_files import Progress

DRY_RUN, TRAINING, STUDY = KINDS = ("dry run", "training", "study")
RUNNING, FINISHED, STOPPED, ENDED, UNREADABLE = "running", "finished", "stopped", "ended", "unreadable"
"""States. `stopped`: before its end; `ended`: whether it came to its end is unknown."""
NONE = "–"
DIGEST = re.compile("[0-9a-f]{64}")


class RunFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures of a dry run on its bars, or of a training's policy on its test sessions. Shares are fractions."""

    first: str = ""  # New York dates
    last: str = ""
    sessions: int = 0
    capital_usd: float = 0.0
    share: float = 0.0  # net return; their sum for a training with one account a session
    annual: float | None = None
    sharpe: float | None = None  # annual
    max_drawdown: float = 0.0
    trades: int = 0


class ListedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run. `changed` are the settings of a training, and those of a dry run that differ from the defaults."""

    id: str  # the folder's name, after those above it if another run has the same
    kind: str
    folder: str
    state: str
    problem: str = ""
    strategy: str = ""
    version: str = ""  # of the model used by a dry run or exported by a training
    data: str = ""
    data_sha256: str = ""
    synthetic: bool = False
    code: str = ""
    began_s: float = 0.0  # seconds since 1970 UTC
    ended_s: float = 0.0  # newest write
    verdict: str = ""
    tags: tuple[str, ...] = ()
    changed: dict[str, str] = {}
    brief: tuple[str, ...] = ()  # the most important settings, as key=value
    figures: RunFigures | None = None
    progress: Progress | None = None


class Course(msgspec.Struct, frozen=True):
    """The return since the begin, and the fall from its highest value so far, at the end of each day."""

    times: tuple[float, ...]  # seconds since 1970 UTC
    shares: tuple[float, ...]  # 0.1 is 10 % above the begin
    falls: tuple[float, ...]  # 0.1 is 10 % below the highest


def course_of(times: Sequence[float], shares: Sequence[float], *, compounds: bool = True) -> Course:
    """Return the course of these returns since the begin; without `compounds` they and their falls are sums."""
    falls, peak = [], 0.0
    for share in shares:
        peak = max(peak, share)
        falls.append((peak - share) / (1.0 + peak if compounds else 1.0))
    return Course(tuple(times), tuple(shares), tuple(falls))


def dotted_settings(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield each setting by its dotted key: a text as it is, twelve digits of a digest, all else as JSON."""
    for name, value in settings.items():
        if isinstance(value, dict):
            yield from dotted_settings(value, f"{prefix}{name}.")
        else:
            text = as_text(value)
            yield f"{prefix}{name}", text[:12] if DIGEST.fullmatch(text) else text


def as_text(value: Any) -> str:
    """Format a setting: a text as it is, all else as JSON."""
    return value if isinstance(value, str) else json.dumps(value)


def different(settings: Sequence[Mapping[str, str]], none: str = NONE) -> list[tuple[str, ...]]:
    """Return the settings in which these differ: the name, then the value of each, `none` if it has none."""
    names = sorted({name for one in settings for name in one})
    rows = [(name, *(one.get(name, none) for one in settings)) for name in names]
    return [row for row in rows if len(set(row[1:])) > 1]
