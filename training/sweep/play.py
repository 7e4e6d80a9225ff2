"""One cell of a sweep: the policy plays all sessions under its rules."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from training.desks.kind import Span
from training.evidence.statistics import session_returns
from training.export.export import Exported
from training.rl.pool import Emit, Flag, Stopped
from training.runs.desk_rules import trading_of
from training.sweep.cells import Cell
from training.sweep.grid import Value
from training.sweep.ready import Ready


def play_cell(ready: Ready, rules: Mapping[str, Value], flag: Flag, emit: Emit) -> Cell:
    """Let the policy play all sessions under these rules. Raises `Stopped` when `flag` is set before it begins."""
    if flag.is_set():
        raise Stopped("a cell")
    asked = ready.asked
    trading = trading_of(asked.strategy, asked.config, rules) if rules else ready.trading
    data: Any = ready.data
    if any(field.name == "ready" for field in dataclasses.fields(data)):
        data = dataclasses.replace(data, ready={})  # desks that are made ready know the rules that they began with
    played = data.test(Exported(ready.version.policy).eval(), Span(ready.dates, ready.variant, trading))
    found, capital = data.figures(played.sessions), float(ready.trading.paper.cash_usd)
    cell = Cell(
        rules=dict(rules),
        returns=tuple(session_returns(played.sessions, capital).tolist()),
        net_return=found.net_return,
        sharpe_annual=found.sharpe_annual,
        max_drawdown=found.max_drawdown,
        trades=found.trades,
        denials=dict(played.denials),
    )
    emit(cell)
    return cell
