"""The cells of a sweep: in each the policy plays all sessions under its rules, on one account, as a dry run does."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import operator
from collections.abc import Mapping, Sequence
from typing import Any

from training.desks.kind import Span
from training.evidence.statistics import session_returns
from training.export.export import Exported
from training.rl.pool import Emit, Flag, Stopped, work_through
from training.rl.ray_cluster import connected
from training.rl.ray_pool import ClusterPool
from training.runs.desk_rules import trading_of
from training.study.evaluation import figures
from training.sweep.cells import Cell
from training.sweep.grid import Value
from training.sweep.ready import Ready, make_same


def play_cell(ready: Ready, rules: Mapping[str, Value], flag: Flag, emit: Emit) -> Cell:
    """Let the policy play all sessions under these rules. Raises `Stopped` when `flag` is set before it begins."""
    if flag.is_set():
        raise Stopped("a cell")
    asked = ready.asked
    trading = trading_of(asked.strategy, asked.config, rules) if rules else ready.trading
    data: Any = ready.data
    if any(field.name == "ready" for field in dataclasses.fields(data)):
        data = dataclasses.replace(data, ready={})  # prepared desks depend on the rules that they were made with
    span = Span(ready.dates, ready.variant, trading)
    (played,) = data.relay([Exported(ready.version.policy).eval()], [span]).folds
    capital = float(ready.trading.paper.cash_usd)
    found = figures(played.sessions, capital, compounds=True)
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


def play_cells(ready: Ready, left: Sequence[Mapping[str, Value]], emit: Emit, stop: Flag) -> None:
    """Play them in processes, or in Ray's where the sweep asks for it; `emit` takes each as it is done."""
    asked, again = ready.asked, functools.partial(make_same, ready.asked, ready.data.info.sha256)
    if asked.ray and left:
        with contextlib.ExitStack() as stack:
            ray = stack.enter_context(connected(asked.ray, asked.processes))
            ClusterPool(ray, "cpu", operator.call, again).work_through(play_cell, left, flag=stop, emit=emit)
        return
    single = asked.processes == 1 or len(left) <= 1
    work_through(
        play_cell,
        left,
        prepare=(lambda given: given) if single else operator.call,
        argument=ready if single else again,
        processes=asked.processes,
        flag=stop,
        emit=emit,
    )
