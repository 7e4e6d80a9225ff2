"""Sweeps: one policy of the store under many desk rules. Each cell is a dry run, and all cells are judged together.

Nothing is written into a configuration. The best of many cells is biased upwards, so the result has the probability of
backtest overfitting over the cells, and the best cell's deflated Sharpe ratio.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from daemon.core.limits import Trading
from daemon.core.strategy_rules import DIGEST
from daemon.host.whole_files import write_whole
from daemon.library.run_files import SWEEP_FILE
from daemon.page_kit.render import render
from strategies.kit.manifest import Manifest, config_text
from strategies.kit.parameters import text_of, values_of
from strategies.registry import entry
from training.desks.kind import PlaysTogether, Span, TaskData
from training.desks.registry import kind
from training.evidence.overfitting import Deflated, Overfitting, backtest_overfitting, deflated_best, luck_of
from training.evidence.statistics import session_returns, sharpes
from training.evidence.wording import counted, number, percent, share
from training.export.export import Exported
from training.export.shelf import Version, check_contract, read_version
from training.rl.pool import Emit, Flag, Stopped, stop_on_signals
from training.rl.ppo import make_deterministic
from training.runs.folder import RUNS, RunFolderError, check_same_code, code_version
from training.runs.ledger import Ledger, ledger_path, settings_digest
from training.runs.prepared import loaded
from training.runs.settings import settings_for, trading_of
from training.studies.grid import OF_THE_STRATEGY, TOGETHER, Axis, GridCell, Swept, Value, cells_of, parted
from training.studies.runner import Cells, Listen, locked, study_name, trial_line, write_result
from training.study.progress import reading
from training.study.study import PlayResult, figures

TEMPLATE = Path(__file__).with_name("page.html")
SHADES = 9  # shades of the heat map, from the worst cell to the best


def page(swept: Swept, axes: Sequence[Axis]) -> str:
    """The whole document."""
    maps = [heat_map(swept, axes[0], axis) for axis in axes[1:]] or [heat_map(swept, axes[0], None)]
    return render(TEMPLATE, swept=swept, maps=maps, head=head_of(swept), rows=rows_of(swept))


def heat_map(swept: Swept, across: Axis, down: Axis | None) -> dict[str, object]:
    """Annual Sharpe ratios over one or two keys: the mean of all cells with these values, and its shade."""
    lines = []
    for value in down.values if down is not None else ("",):
        row_cells = [cell for cell in swept.cells if down is None or cell.rules[down.key] == value]
        columns = [
            [cell.sharpe_annual for cell in row_cells if cell.rules[across.key] == column_value]
            for column_value in across.values
        ]
        lines.append((str(value), [sum(column) / len(column) for column in columns]))
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
    """The unchanged cell, then the others by descending Sharpe ratio."""
    ordered = sorted(swept.cells, key=lambda cell: -cell.sharpe_annual)
    configured = ("as configured", *("" for _ in swept.keys[1:]), *_figures(swept.configured))
    return [configured, *((*(str(cell.rules[key]) for key in swept.keys), *_figures(cell)) for cell in ordered)]


def _figures(cell: GridCell) -> tuple[str, ...]:
    return percent(cell.net_return), number(cell.sharpe_annual), share(cell.max_drawdown), f"{cell.trades:,}"


@dataclass(frozen=True, slots=True)
class SweepRequest:
    """The settings of a sweep."""

    strategy: str
    bars: Path
    store: Path
    axes: tuple[Axis, ...]
    version: str = "current"
    config: Path | None = None  # configuration for all other rules; None: the strategy's defaults
    first: str = ""  # session, New York date; "": see `sessions_of`
    last: str = ""
    processes: int = 2
    together: int = TOGETHER  # most cells that one process plays together; 1: each alone
    ray: str = ""  # "local", "auto", an address; "" is this machine's processes without Ray
    folder: Path | None = None


@dataclass(frozen=True, slots=True)
class SweepSetup:
    """What a process needs to play a cell."""

    request: SweepRequest
    version: Version
    data: TaskData
    dates: tuple[str, ...]
    trading: Trading  # without any change

    @property
    def variant(self) -> str:
        """The variant (unit of action, or reward) of the policy's training; for a passive policy its own."""
        passive = kind(self.request.strategy).passive
        if self.version.manifest.metrics.get("exported") == "passive" and passive is not None and passive.variant:
            return passive.variant
        rewards = self.version.manifest.hyperparameters.get("rewards") or kind(self.request.strategy).variants
        return str(rewards[0])

    def identity(self) -> dict[str, Any]:
        """What decides the result, as JSON."""
        return {
            "policy": self.version.manifest.policy_sha256,
            "bars": self.data.info.sha256,
            "sessions": [self.dates[0], self.dates[-1], len(self.dates)],
            "axes": [[axis.key, list(axis.values)] for axis in self.request.axes],
            "rules": repr(self.trading),
        }


def make_ready(request: SweepRequest) -> SweepSetup:
    """Read everything.

    Raises:
        VersionError: the store has no such version, or it has another contract than the strategy.
        ValueError: a key's value is out of bounds, or fixed by the model; no session is left.
        TapeError, CalendarError, HistoryError, OSError: as reading the bars does.
    """
    make_deterministic()
    version, trading = (
        read_version(request.store, request.strategy, request.version),
        trading_of(request.strategy, request.config),
    )
    check_contract(version)
    fixed = version.manifest.rules.keys() - {DIGEST}
    for axis in request.axes:
        if axis.key in fixed:
            raise ValueError(f"--set {axis.key}: the model {version.folder.name} was trained with one value of it")
    own_keys = [axis.key for axis in request.axes if axis.key.startswith(OF_THE_STRATEGY)]
    if own_keys and kind(request.strategy).rule is None:
        raise ValueError(
            f"--set {own_keys[0]}: the policy of {request.strategy} was trained with one value of it, and sees other "
            "numbers with another: only a rule can be swept over it; train with --parameters for each value"
        )
    data = _load_bars(request, version, trading, config_text(version.manifest))
    dates = sessions_of(tuple(data.days), data.info.sha256, version.manifest, request.first, request.last)
    return SweepSetup(request, version, data, dates, trading)


def _load_bars(request: SweepRequest, version: Version, trading: Trading, config: str) -> TaskData:
    """The bars, made ready for the strategy with this configuration or these parameters."""
    settings = dataclasses.replace(settings_for(request.strategy, request.bars, request.store), model_config=config)
    if "symbols" not in settings.kind.procedure.lacks():
        settings = dataclasses.replace(settings, symbols=version.manifest.symbols or ())
    return loaded(settings, trading)


def _of_parameters(ready: SweepSetup, values: Mapping[str, Value]) -> TaskData:
    """The same bars for other parameters; sessions within their warm-up have no position."""
    request, declared = ready.request, entry(ready.request.strategy).parameters
    present = values_of(declared, config_text(ready.version.manifest))
    config = text_of(declared, {**present, **values})
    data = _load_bars(request, ready.version, ready.trading, config)
    late = [date for date in ready.dates if date not in frozenset(data.days)]
    if late:
        values_text = ", ".join(f"{name} {value}" for name, value in values.items())
        raise ValueError(
            f"with {values_text} {request.strategy} is not warm before {late[-1]}, and the sweep begins at {late[0]}: "
            "give --first a later session, or smaller values"
        )
    return data


def make_same(request: SweepRequest, sha256: str, code: str) -> SweepSetup:
    """Read everything once more, in a further process. Raises `RunFolderError` where bars or code have changed."""
    ready = make_ready(request)
    check_same_code(request.strategy, code)
    if ready.data.info.sha256 != sha256:
        raise RunFolderError(f"{request.bars} changed while the sweep was at work: give the same command again")
    return ready


def sessions_of(
    days: Sequence[str], sha256: str, manifest: Manifest, first: str = "", last: str = ""
) -> tuple[str, ...]:
    """The sessions from `first` to `last`; if both are "", the policy's test sessions, or all after its last one.

    Raises:
        ValueError: there is none.
    """
    if first and last and first > last:
        raise ValueError(f"--first {first} is after --last {last}: exchange them")
    test = manifest.training.splits.get("test") if sha256 == manifest.training.file_sha256 else None
    if not first and not last and test is not None:
        first, last = test
    elif not first and not last:
        first = f"{manifest.training.last_session}~"  # sorts after every text with this prefix
    chosen = tuple(day for day in days if (not first or day >= first) and (not last or day <= last))
    if not chosen:
        raise ValueError(
            f"no session from {first.rstrip('~') or 'the first'} to {last or 'the last'} can be decided on; the file "
            f"has {len(days)} from {days[0] if days else 'none'} to {days[-1] if days else 'none'}: give --first and "
            "--last"
        )
    return chosen


def play_cells(ready: SweepSetup, batch: Sequence[Mapping[str, Value]], flag: Flag, emit: Emit) -> tuple[GridCell, ...]:
    """Let the policy play all sessions under each of these rules, together where possible, else one by one.

    Raises `Stopped` when `flag` is set.
    """

    def check_stop() -> None:
        if flag.is_set():
            raise Stopped("a cell")

    check_stop()
    request, data, policy = ready.request, ready.data, Exported(ready.version.policy).eval()
    parts = [parted(values) for values in batch]
    rules = [
        trading_of(request.strategy, request.config, changed) if changed else ready.trading for _, changed in parts
    ]
    spans = [Span(ready.dates, ready.variant, trading) for trading in rules]
    together = len(batch) > 1 and not any(
        own_parameters for own_parameters, _ in parts
    )  # parameters change the observations, so cells cannot play together
    if together and policy.repeatable and isinstance(data, PlaysTogether) and data.alike_but_for_rules(spans):
        cells = [_cell(ready, *pair) for pair in zip(batch, data.relay_each(policy, spans, check_stop), strict=True)]
        for cell in cells:
            emit(cell)
        return tuple(cells)
    cells = []
    for values, (own_parameters, _), span in zip(batch, parts, spans, strict=True):
        check_stop()
        bars = _of_parameters(ready, own_parameters) if own_parameters else data
        cells.append(_cell(ready, values, _played_alone(bars, policy, span)))
        emit(cells[-1])
    return tuple(cells)


def _played_alone(data: Any, policy: Exported, span: Span) -> PlayResult:
    if any(field.name == "ready" for field in dataclasses.fields(data)):
        data = dataclasses.replace(data, ready={})  # prepared desks depend on the rules that they were made with
    played: PlayResult
    (played,) = data.relay([policy], [span]).folds
    return played


def _cell(ready: SweepSetup, rules: Mapping[str, Value], played: PlayResult) -> GridCell:
    capital = float(ready.trading.paper.cash_usd)
    result = figures(played.sessions, capital, compounds=True)
    return GridCell(
        rules=dict(rules),
        returns=tuple(session_returns(played.sessions, capital).tolist()),
        net_return=result.net_return,
        sharpe_annual=result.sharpe_annual,
        max_drawdown=result.max_drawdown,
        trades=result.trades,
        denials=dict(played.denials),
    )


def judge_cells(ready: SweepSetup, played: Sequence[GridCell], digest: str) -> Swept:
    """The joint statistics of all cells; each is a line of the ledger, because each has seen the sessions."""
    request, manifest, cells = ready.request, ready.version.manifest, played[1:]
    matrix = np.array([cell.returns for cell in cells], dtype=np.float64).T
    ratios = sharpes(matrix.T)
    best = int(ratios.argmax())
    lines = [
        trial_line(
            study_name("sweep", request.strategy, digest),
            request.strategy,
            ready.data.info.sha256,
            (ready.dates[0], ready.dates[-1]),
            sharpe=float(ratio),
            digest=digest,
            note=f"sweep of {manifest.version}: {_describe(cell)}",
        )
        for cell, ratio in zip(cells, ratios, strict=True)
    ]
    ledger = Ledger(ledger_path(request.store, request.strategy))
    prior, _ = ledger.prior(ready.dates, own_lines=lines)
    ledger.record(*lines)
    deflated = deflated_best(matrix, best, prior)
    spans = [manifest.training.splits[name] for name in ("train", "validate") if name in manifest.training.splits]
    overfitting = backtest_overfitting(matrix)
    return Swept(
        strategy=request.strategy,
        version=manifest.version,
        bars=request.bars.name,
        first=ready.dates[0],
        last=ready.dates[-1],
        sessions=len(ready.dates),
        seen=sum(any(first <= day <= span_end for first, span_end in spans) for day in ready.dates),
        keys=tuple(axis.key for axis in request.axes),
        configured=played[0],
        cells=tuple(cells),
        best=best,
        overfitting=overfitting,
        deflated=deflated,
        words=_words(cells[best], played[0], len(cells), deflated, overfitting),
    )


def _words(best: GridCell, configured: GridCell, count: int, deflated: Deflated, overfitting: Overfitting) -> str:
    return (
        f"The largest Sharpe ratio of {counted(count, 'cell')}, {best.sharpe_annual:+.2f} a year, is that of "
        f"{_describe(best)}; "
        f"as configured it is {configured.sharpe_annual:+.2f}. {luck_of(deflated, overfitting)} No configuration was "
        "changed."
    )


def _describe(cell: GridCell) -> str:
    return ", ".join(f"{key} {value}" for key, value in cell.rules.items())


CELLS_FILE, PAGE_FILE = "cells.jsonl", "sweep.html"


def run_sweep(request: SweepRequest, listen: Listen, flag: Flag | None = None) -> tuple[Swept, Path]:
    """Play all cells, or those that a stopped sweep left; the result, also written, and its folder.

    Raises:
        Stopped: SIGTERM, SIGINT or `flag`; the same call goes on.
        LedgerError, RunFolderError, and what `make_ready` raises.
    """
    cells = cells_of(request.axes)
    for values in cells:  # a value out of bounds is reported before anything long begins
        trading_of(request.strategy, request.config, parted(values)[1])
    with stop_on_signals(flag) as stop:
        with reading(request.bars, listen):
            ready = make_ready(request)
        if remark := ready.data.info.remark:
            listen(f"{request.bars.name}: {remark}")
        digest = settings_digest(ready.identity())
        folder = request.folder or RUNS / study_name("sweep", request.strategy, digest)
        with locked(folder, "sweep", "--out"):
            grid_cells = _play_all(ready, cells, digest, folder, listen, stop)
            swept = judge_cells(ready, grid_cells, digest)
            write_result(folder / SWEEP_FILE, swept)
            write_whole(folder / PAGE_FILE, page(swept, request.axes).encode())
    return swept, folder


def _play_all(
    ready: SweepSetup, cells: Sequence[Mapping[str, Value]], digest: str, folder: Path, listen: Listen, stop: Flag
) -> list[GridCell]:
    """Play the unchanged cell, then all others in order; each is kept as soon as it is done."""
    path, all_rules = folder / CELLS_FILE, [{}, *map(dict, cells)]
    code = code_version(ready.request.strategy)
    sweep_digest = settings_digest({"sweep": digest, "code": code})
    finished = {_key(cell.rules): cell for cell in _read_cells(path) if cell.sweep == sweep_digest}
    remaining = [rules for rules in all_rules if _key(rules) not in finished]
    listen(
        f"{len(cells)} cells over {len(ready.dates)} sessions, {len(all_rules) - len(remaining)} of them done; {folder}"
    )
    with path.open("a+b", buffering=0) as book:
        if book.tell() and not path.read_bytes().endswith(b"\n"):  # a line that a kill cut off
            book.write(b"\n")

        def keep(news: Any) -> None:
            if isinstance(news, GridCell):
                cell = msgspec.structs.replace(news, sweep=sweep_digest)
                finished[_key(cell.rules)] = cell
                book.write(msgspec.json.encode(cell) + b"\n")
            listen(news)

        again = functools.partial(make_same, ready.request, ready.data.info.sha256, code)
        request = ready.request
        Cells(play_cells, ready, again, request.processes, request.ray).through(
            _batches(remaining, request), keep, stop
        )
    return [finished[_key(rules)] for rules in all_rules]


def _batches(cells: Sequence[dict[str, Value]], request: SweepRequest) -> list[Sequence[dict[str, Value]]]:
    """The cells in their order, in parts that are played together; a part for each process at least."""
    size = min(request.together, math.ceil(len(cells) / request.processes)) or 1
    return [cells[begin : begin + size] for begin in range(0, len(cells), size)]


def _key(rules: Mapping[str, Value]) -> str:
    return msgspec.json.encode(dict(rules), order="deterministic").decode()


def _read_cells(path: Path) -> list[GridCell]:
    """The cells of an earlier start; a line that was cut off does not count."""
    cells = []
    for line in path.read_bytes().splitlines() if path.exists() else ():
        with contextlib.suppress(msgspec.DecodeError):
            cells.append(msgspec.json.decode(line, type=GridCell))
    return cells
