"""The markup of a day's page: text in, escaped HTML out. Nowhere else a tag is written around foreign text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from html import escape

from daemon.reports.words import number

NONE = "\N{EN DASH}"


def section(heading: str, *parts: str) -> str:
    """A heading, which is text, above `parts`, which are markup."""
    return f"<section><h2>{escape(heading)}</h2>{''.join(parts)}</section>"


def say(text: str) -> str:
    """A paragraph of text."""
    return f"<p>{escape(text)}</p>"


def figure(narrow: str, wide: str, caption: str) -> str:
    """A plot in two widths, of which the page shows one, and its caption."""
    both = f'<div class="on-wide">{wide}</div><div class="on-narrow">{narrow}</div>'
    return f"<figure>{both}<figcaption>{escape(caption)}</figcaption></figure>"


def table(head: Sequence[str], rows: Iterable[Sequence[str]], style: str = "") -> str:
    """Cells are text; the first of a line is its heading. What stands after a line feed is small."""
    lines = []
    for row in rows:
        first, *rest = (_cell(cell) for cell in row)
        lines.append(f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>')
    heads = "".join(f'<th scope="col">{_cell(name)}</th>' for name in head)
    return (
        f'<div class="table {style}" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def _cell(text: str) -> str:
    large, _, small = text.partition("\n")
    return escape(large) + (f"<small>{escape(small)}</small>" if small else "")


def known(value: Decimal | None, decimals: int) -> str:
    """The number, a dash where it is not known."""
    return NONE if value is None else number(value, decimals)
