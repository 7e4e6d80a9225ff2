"""The results of a sweep as data: what the policy did in each cell, and what all of them show together."""

from __future__ import annotations

import msgspec

from training.evidence.cross_validation import Overfitting
from training.evidence.overfitting import Deflated
from training.sweep.grid import Value


class Cell(msgspec.Struct, frozen=True, kw_only=True):
    """What the policy did under one set of rules. Returns are of sessions, parts of what each began with."""

    rules: dict[str, Value]  # those that the sweep changes; empty: none
    returns: tuple[float, ...]
    net_return: float
    sharpe_annual: float
    max_drawdown: float
    trades: int
    denials: dict[str, int]
    sweep: str = ""  # digest of the sweep that it is of, and of the code that played it


class Swept(msgspec.Struct, frozen=True, kw_only=True):
    """All cells, and what they show together: `sweep.json`."""

    strategy: str
    version: str
    bars: str
    first: str
    last: str
    sessions: int
    seen: int  # of these sessions, on which the policy was trained or chosen
    keys: tuple[str, ...]
    configured: Cell  # without any change
    cells: tuple[Cell, ...]
    best: int  # index of the cell with the largest Sharpe ratio
    overfitting: Overfitting
    deflated: Deflated  # of the best, among the cells and all earlier trials on these sessions
    words: str
