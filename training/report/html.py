"""The pieces that a report's page is made of: paragraph, figure, table, and figures with their intervals.

HTML out of text and numbers; whatever comes from a study is escaped, except cells, which are HTML already.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from training.evidence.findings import Findings, Line
from training.evidence.resampling import Interval
from training.evidence.wording import UNKNOWN, number, percent, share

PLAYER_STYLES = {
    "always flat": "flat",
    "buy and hold": "hold",
    "random": "random",
    "simple rule": "rule",
    "ALL_SPY": "hold",
    "EQUAL_WEIGHT": "rule",
    "equal weight": "rule",
}
Row = Sequence[str]


def paragraph(text: str) -> str:
    """Escaped text."""
    return f"<p>{escape(text)}</p>"


def figure(svg: str, caption: str) -> str:
    """A picture above its escaped caption."""
    return f"<figure>{svg}<figcaption>{escape(caption)}</figcaption></figure>"


def table(head: Row, rows: Sequence[Row], style: str) -> str:
    """A table in a frame that scrolls sideways on a phone. Cells are HTML already."""
    top = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{row[0]}</th>' + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows
    )
    shown = f"<thead><tr>{top}</tr></thead>" if any(head) else ""
    return f'<div class="table {style}"><table>{shown}<tbody>{body}</tbody></table></div>'


def with_interval(found: Interval, digits: int = 2) -> str:
    """An estimate as a percentage, its interval small beside it where it has a width."""
    if found.low == found.high:
        return percent(found.estimate, digits)
    between = f"{percent(found.low, digits)} to {percent(found.high, digits)}"
    return f"{percent(found.estimate, digits)} <small>{between}</small>"


def with_share(found: Interval) -> str:
    """A share between 0 and 1 with its interval, as above."""
    if found.low == found.high:
        return share(found.estimate)
    return f"{share(found.estimate)} <small>{share(found.low)} to {share(found.high)}</small>"


def sharpe(line: Line) -> str:
    """A player's annual Sharpe ratio with its interval; a dash without deviation."""
    found = line.sharpe_annual
    if line.figures.deviation <= 0.0:
        return UNKNOWN
    return f"{number(found.estimate)} <small>{number(found.low)} to {number(found.high)}</small>"


def variant_word(f: Findings) -> str:
    """What the variants of a study's trials are called: rewards of option desks, settings of desks of shares."""
    return "setting" if f.compounds else "reward"


def style(name: str) -> str:
    """A player's class in the style sheet."""
    return "policy" if name == "policy" else PLAYER_STYLES.get(name, "other")
