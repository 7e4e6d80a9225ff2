"""The page of a sweep: a heat map of the cells, and all of them as a table. Same cells, same text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from daemon.page_kit.render import render
from training.evidence.wording import number, percent, share
from training.studies.grid import Axis, GridCell, Swept

TEMPLATE = Path(__file__).with_name("page.html")
SHADES = 9  # of the heat map, from the worst cell to the best


def page(swept: Swept, axes: Sequence[Axis]) -> str:
    """The whole document."""
    maps = [heat_map(swept, axes[0], axis) for axis in axes[1:]] or [heat_map(swept, axes[0], None)]
    return render(TEMPLATE, swept=swept, maps=maps, head=head_of(swept), rows=rows_of(swept))


def heat_map(swept: Swept, across: Axis, down: Axis | None) -> dict[str, object]:
    """Annual Sharpe ratios over one or two keys: the mean of all cells that agree in these, with its shade."""
    lines = []
    for value in down.values if down is not None else ("",):
        own = [cell for cell in swept.cells if down is None or cell.rules[down.key] == value]
        columns = [[cell.sharpe_annual for cell in own if cell.rules[across.key] == each] for each in across.values]
        lines.append((str(value), [sum(found) / len(found) for found in columns]))
    every = [value for _, values in lines for value in values]
    low, high = min(every), max(every)
    scale = (SHADES - 1) / (high - low) if high > low else 0.0
    return {
        "across": across.key,
        "down": down.key if down is not None else "",
        "columns": [str(value) for value in across.values],
        "rows": [
            (label, [(number(value), round((value - low) * scale)) for value in values]) for label, values in lines
        ],
    }


def head_of(swept: Swept) -> tuple[str, ...]:
    """The names of the table's columns."""
    return *swept.keys, "net return", "Sharpe ratio, annual", "largest drawdown", "trades"


def rows_of(swept: Swept) -> list[tuple[str, ...]]:
    """What is configured, then the cells with the largest Sharpe ratio first."""
    ordered = sorted(swept.cells, key=lambda cell: -cell.sharpe_annual)
    configured = ("as configured", *("" for _ in swept.keys[1:]), *_figures(swept.configured))
    return [configured, *((*(str(cell.rules[key]) for key in swept.keys), *_figures(cell)) for cell in ordered)]


def _figures(cell: GridCell) -> tuple[str, ...]:
    return percent(cell.net_return), number(cell.sharpe_annual), share(cell.max_drawdown), f"{cell.trades:,}"
