"""A dry run, read from its journal. Imports no strategy and takes no lock, so that reading disturbs nothing."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import closing, suppress
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import msgspec

from daemon.core.limits import Trading
from daemon.core.session import new_york_text
from daemon.core.strategy_rules import trading_for
from daemon.engine.state_dir import LOCK_FILE, process_of
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import MODEL_CONFIG, SYMBOLS, TAPE_DATES, base_of, made_with
from daemon.library.listed import (
    DRY_RUN,
    ENDED,
    FINISHED,
    RUNNING,
    STOPPED,
    Course,
    ListedRun,
    RunFigures,
    course_of,
    dotted_settings,
)
from daemon.library.run_files import Progress
from daemon.reports.performance.figures import Performance
from daemon.reports.performance.read import read_alone
from daemon.reports.words import kind_of
from strategies.kit.quantity import to_json
from strategies.registry import STRATEGIES, entry

LIVE_DATA = "dry_run"
MODES = frozenset({"replay", "recorded", LIVE_DATA})
"""Modes of dry runs. A journal of another mode is that of a desk at a broker, which is no run of the library."""


def read_dry_run(file: Path, name: str) -> ListedRun | None:
    """Return the run of a journal; None if it is not a dry run's. Raises JournalError, OSError."""
    folder = file.parent
    with closing(JournalReader(file)) as reader, reading(file):
        meta = meta_of(reader)
        if meta.get("mode") not in MODES:
            return None
        run_started = _newest(reader, meta, "RunStarted")
        model = _newest(reader, meta, "ModelVerified", "ModelPromoted")
        newest = reader.query("SELECT time_ns FROM events ORDER BY id DESC LIMIT 1")
        figures = read_alone(reader)
    process = process_of(folder)
    changes = _changes(meta, run_started)
    ended_s = max(_written_s(file), _written_s(file.with_name(f"{FILE}-wal")))
    progress = _progress(meta, newest[0]["time_ns"] if newest else 0, process)
    return ListedRun(
        id=name,
        kind=DRY_RUN,
        folder=str(folder),
        state=_state(meta, progress, process),
        strategy=meta.get("strategy", ""),
        version=model.get("version", ""),
        data=meta.get("tape", "") or "live data",
        data_sha256=meta.get("tape_sha256", ""),
        synthetic=bool(meta.get("synthetic")),
        code=run_started.get("code", ""),
        began_s=min(_written_s(folder / LOCK_FILE), ended_s),  # a refused start takes the lock and writes nothing
        ended_s=ended_s,
        verdict=kind_of(
            meta["mode"], meta.get("account", ""), synthetic=bool(meta.get("synthetic")), tape=meta.get("tape", "")
        ),
        changed=changes,
        brief=tuple(f"{key}={value}" for key, value in changes.items()),
        figures=figures_of(figures),
        progress=progress,
    )


def meta_of(reader: JournalReader) -> dict[str, str]:
    """Return the journal's meta. Unlike `JournalReader.meta`, registers no strategy's file."""
    return {str(row["key"]): str(row["value"]) for row in reader.query("SELECT key, value FROM meta")}


def read_course(file: Path) -> Course:
    """Return the run's course. Raises JournalError, OSError."""
    with closing(JournalReader(file)) as reader, reading(file):
        figures = read_alone(reader)
    if not figures.lines:
        return Course((), (), ())
    return course_of(figures.lines[0].times, figures.lines[0].shares)


def read_parameters(file: Path) -> dict[str, str]:
    """Return all settings of the run by dotted key. Raises JournalError, OSError."""
    with closing(JournalReader(file)) as reader, reading(file):
        meta = meta_of(reader)
        run_started = _newest(reader, meta, "RunStarted")
    return {**_of_meta(meta), **dict(dotted_settings(run_started.get("trading", {})))}


def figures_of(performance: Performance) -> RunFigures | None:
    """Return the library's figures of a performance, None without a session."""
    if not performance.sessions:
        return None
    return RunFigures(
        first=performance.first,
        last=performance.last,
        sessions=performance.sessions,
        capital_usd=performance.start_usd,
        share=performance.share,
        annual=performance.annual,
        sharpe=performance.sharpe,
        max_drawdown=performance.max_drawdown,
        trades=performance.trades.trades + performance.trades.open,
    )


def _newest(reader: JournalReader, meta: Mapping[str, str], *kinds: str) -> dict[str, Any]:
    """Return the newest event of these kinds, {} without one; after a rotation also from the previous file."""
    marks = ", ".join("?" * len(kinds))
    rows = reader.query(f"SELECT payload FROM events WHERE kind IN ({marks}) ORDER BY id DESC LIMIT 1", kinds)
    base = None if rows else base_of(dict(meta))
    payload_before = "" if base is None else base.started if "RunStarted" in kinds else base.model
    text = rows[0]["payload"] if rows else payload_before
    try:
        fields = msgspec.json.decode(text) if text else {}
    except msgspec.DecodeError:
        return {}
    return fields if isinstance(fields, dict) else {}


def _changes(meta: Mapping[str, str], run_started: Mapping[str, Any]) -> dict[str, str]:
    """Return the settings that differ from the strategy's defaults of this code."""
    strategy = meta.get("strategy", "")
    shipped = strategy if strategy in STRATEGIES else ""
    usual = _of_meta(_made_with(shipped)) if shipped else {}
    if run_started:
        usual |= dict(dotted_settings(_defaults(shipped)))
    settings = {**_of_meta(meta), **dict(dotted_settings(run_started.get("trading", {})))}
    return {key: value for key, value in settings.items() if not _is_usual(value, usual.get(key, ""))}


def _is_usual(value: str, usual: str) -> bool:
    """Return whether two settings are equal: amounts compare by value."""
    try:
        return value == usual or Decimal(value) == Decimal(usual)
    except ArithmeticError:
        return False


@cache
def _defaults(strategy: str) -> dict[str, Any]:
    """Return a shipped strategy's default rules as in a journal; for one's own strategy, not imported, the core's."""
    rules = trading_for(strategy) if strategy else Trading()
    tables: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(rules, enc_hook=to_json))
    return tables


@cache
def _made_with(strategy: str) -> dict[str, str]:
    """Return the settings in a journal's meta of an unconfigured shipped strategy."""
    return {"strategy": strategy, **made_with(entry(strategy).make().spec)}


def _of_meta(meta: Mapping[str, str]) -> dict[str, str]:
    """Return the settings in a journal's meta by dotted key, one for each model setting or parameter."""
    keys = {SYMBOLS: "desk.symbols", "option_quotes": "option_quotes"}
    settings: dict[str, Any] = {label: meta[key] for key, label in keys.items() if meta.get(key)}
    name = "desk.model_config" if meta.get("strategy") in STRATEGIES else "desk.parameters"
    with suppress(msgspec.DecodeError):
        settings[name] = msgspec.json.decode(meta.get(MODEL_CONFIG) or "{}")
    return dict(dotted_settings(settings))


def _progress(meta: Mapping[str, str], newest_ns: int, process: str) -> Progress | None:
    """Return how many of the tape's days are done, None if its dates are unknown."""
    first, _, last = meta.get(TAPE_DATES, "").partition(" ")
    try:
        begin, end = date.fromisoformat(first), date.fromisoformat(last)
        date_reached = date.fromisoformat(new_york_text(newest_ns)[:10])
    except (ValueError, OverflowError):
        return None
    whole = (end - begin).days + 1
    days_done = min(max((date_reached - begin).days + (not process), 0), whole)
    return Progress(
        stage="replay", done=days_done, total=whole, unit="days", process=int(process) if process.isdecimal() else 0
    )


def _state(meta: Mapping[str, str], progress: Progress | None, process: str) -> str:
    if process:
        return RUNNING
    if progress is None:
        return STOPPED if meta["mode"] == LIVE_DATA else ENDED
    return FINISHED if progress.done >= progress.total else STOPPED


def _written_s(path: Path) -> float:
    try:
        return os.lstat(path).st_mtime
    except OSError:
        return 0.0
