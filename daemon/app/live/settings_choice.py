"""Choose the settings of a live desk with mistakes in its configuration while it holds something and must be watched.

Such a desk starts halted. Nothing is mixed key by key: `[desk]`, `[paths]`, `[alpaca]` and `[clock]` must be complete,
or the start is retried; the tables of the step's rules come completely from the configuration, or completely from the
last start in the journal; each other table is complete or has its defaults.
"""

from __future__ import annotations

import os
import re
import time
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from daemon.app.live.model_choice import check_still_held, state_if_held
from daemon.config.load import ConfigError, DeskSettings, load
from daemon.config.tables import AlarmsTable, FeedTable, PolicyTable
from daemon.core.limits import Trading
from daemon.core.state import State
from daemon.engine.own_code import watch_start
from daemon.engine.recover import recovered_desk
from daemon.engine.state_dir import enter, peek, standing
from daemon.host.own_files import StateDirError
from daemon.host.passing import MayPass
from daemon.host.state_place import STATE_DIR
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import STRATEGY_FROM, STRATEGY_SPEC, JournalError, Snapshot, symbols_of
from daemon.models.runtime import NO_MODEL
from daemon.operator.alarm_command import tell_now
from daemon.operator.log import Log
from strategies.registry import is_file, place_of, stand_in

WHOLE = ("desk", "paths", "alpaca", "clock")
TRADING = tuple(name for name in Trading.__dataclass_fields__ if name in DeskSettings.model_fields)
OTHERS = tuple(name for name in DeskSettings.model_fields if name not in (*WHOLE, *TRADING))
JOURNAL = "the last start, in the journal"
TOLD_FILE, TOLD_AGAIN_S = "not_started", 3600.0  # the last alarm of the operator's program, and when it is repeated
_ALARMS = re.compile(r"^\[alarms\].*?(?=^\[\w|\Z)", re.MULTILINE | re.DOTALL)
_FOLDER = re.compile(r"""^[^#"'\n]*=[^#"'\n]*["']([^"'\n]+)["']""", re.MULTILINE)  # the text of any key


class NotWhole(MayPass):
    """The desk in `place` holds something, and its place or identity cannot be read: exit code 1, retried."""

    alarm: ClassVar[str] = "configuration"
    holds: ClassVar[str] = "holds"

    def __init__(self, place: Path, problem: str) -> None:
        super().__init__(f"{place} {self.holds} a position or an order, and {problem}")
        self.place = place


class NotRead(NotWhole):
    """The journal in `place` cannot be read, so what the desk holds is unknown: exit code 2, not retried."""

    alarm, holds = "journal_damaged", "may hold"


def settings_of_a_held_desk(
    config: Path | None, overrides: Mapping[str, object], refusal: ConfigError
) -> tuple[DeskSettings, str]:
    """Return settings that its exits can go on by, and what they are made of.

    Args:
        config: the configuration with mistakes; None for the environment and `overrides` alone.
        overrides: the command line's keys, as `load` takes them.
        refused: why it was refused.

    Raises:
        ConfigError: `refusal`, where the desk holds nothing.
        StateDirError: root cannot become the owner of the state directory.
        NotWhole: it holds something, and its identity is not whole or is another one's.
        MayPass: the journal cannot be read now.
    """
    stands_in = False
    try:
        settings = _whole(config, overrides)
    except ConfigError as error:
        place = _place_that_holds(config, overrides)
        if place is None:
            raise refusal from None
        stand_in_settings = _stand_in(config, overrides, place)
        stands_in, overrides = bool(stand_in_settings), {**overrides, **stand_in_settings}
        try:
            settings = _whole(config, overrides)
        except ConfigError:
            raise NotWhole(place, f"[{'], ['.join(WHOLE)}] are not whole: {error}") from None
    enter(settings.paths.state_dir)
    state = state_if_held(settings)
    if state is None:
        raise refusal
    number, account = settings.desk.account_number, state.broker.account
    if number and account and number != account:
        raise NotWhole(
            settings.paths.state_dir,
            f"its account is {account}, desk.account_number is {number}, and the configuration has mistakes: {refusal}",
        )
    return _made_whole(config, overrides, settings, state, refusal, stands_in=stands_in)


def _whole(config: Path | None, overrides: Mapping[str, object]) -> DeskSettings:
    """Load the tables that must be complete. Raises ConfigError, also if the strategy dropped what its desk holds."""
    settings = load(config, overrides, only=WHOLE)
    check_still_held(settings)
    return settings


def _stand_in(config: Path | None, overrides: Mapping[str, object], place: Path) -> dict[str, object]:
    """Replace the own strategy of this journal by a stand-in; return the keys of `[desk]` that name it.

    None where the journal is no own strategy's, or the configuration names another one. A file that cannot be imported
    may be the journal's: an upgrade moves it, or points a link at the new one.
    """
    with suppress(StateDirError, JournalError, OSError, ValueError):
        meta = peek(place) or {}
        file, spec, symbols = meta.get(STRATEGY_FROM, ""), meta.get(STRATEGY_SPEC, ""), symbols_of(meta)
        asked = _strategy_asked_for(config, overrides)
        if spec and (asked in ("", meta["strategy"]) or is_file(asked)):
            name = stand_in(file, spec, symbols)
            return {"desk.strategy": name, "desk.symbols": list(symbols), "desk.parameters": []}
    return {}


def watch_own_code(config: Path | None, overrides: Mapping[str, object]) -> None:
    """Note calls of own code in this start (`watch_start`), before anything is imported."""
    strategy = ""
    with suppress(OSError, ValueError, AttributeError):  # unreadable configuration
        strategy = _strategy_asked_for(config, overrides)
    if place := next((place for place in _places(config, overrides) if place.is_dir()), None):
        watch_start(place, strategy)


def _strategy_asked_for(config: Path | None, overrides: Mapping[str, object]) -> str:
    """Return the configured strategy, a file by its place; "" for the one in the journal."""
    text = overrides.get("desk.strategy") or os.environ.get("RLTRADER_DESK__STRATEGY")
    if not text and config is not None:
        text = tomllib.loads(config.read_text(encoding="utf-8")).get("desk", {}).get("strategy")
    return place_of(str(text or ""))


def _made_whole(
    config: Path | None,
    overrides: Mapping[str, object],
    settings: DeskSettings,
    state: State[Any],
    refusal: ConfigError,
    *,
    stands_in: bool,
) -> tuple[DeskSettings, str]:
    keys_taken: tuple[str, ...] = WHOLE
    left_out = []
    for table in OTHERS:
        try:
            settings = load(config, overrides, only=(*keys_taken, table))
        except ConfigError:
            left_out.append(table)
        else:
            keys_taken = (*keys_taken, table)
    changes: dict[str, Any] = {
        "desk": replace(settings.desk, account_number=settings.desk.account_number or state.broker.account)
    }
    if "feed" in left_out:  # the journal's: with another feed its directory is refused
        changes["feed"] = FeedTable(name=_feed_of(settings))
    if "policy" in left_out:  # the signing keys are unknown: only the version that answered last, by its digest
        changes["policy"] = PolicyTable(version=NO_MODEL, poll_s=0)
    try:
        if stands_in:
            raise refusal  # the strategy's defaults are unknown
        settings = load(config, overrides, only=(*keys_taken, *TRADING))
        rules = "trading rules from the configuration, whole"
    except ConfigError:
        rules = f"trading rules from {JOURNAL}, whole"
        tables_of = {name: getattr(state.trading, name) for name in TRADING}
        changes |= {name: table for name, table in tables_of.items() if table is not msgspec.UNSET}
        settings.came_from({**settings.origins(), **_origins(state.trading)})
    by_default = f"; by their defaults: [{'], ['.join(left_out)}]" if left_out else ""
    return settings.model_copy(update=changes), f"{refusal}; meanwhile: {rules}{by_default}"


def _origins(trading: Trading) -> dict[str, str]:
    tables = ((name, getattr(trading, name)) for name in TRADING)
    return {f"{name}.{key}": JOURNAL for name, table in tables if table is not msgspec.UNSET for key in table.__slots__}


def _feed_of(settings: DeskSettings) -> Any:
    return (peek(settings.paths.state_dir) or {}).get("feed", settings.feed.name)


def _places(config: Path | None, overrides: Mapping[str, object]) -> Iterator[Path]:
    """Yield the state directories that a configuration which cannot be read may mean, the likeliest first."""
    folders = [overrides.get("paths.state_dir"), os.environ.get("RLTRADER_PATHS__STATE_DIR")]
    if not any(folders):
        text, tables = "", {}
        if config is not None:
            with suppress(OSError):
                text = config.read_text(encoding="utf-8", errors="replace")
            with suppress(ValueError):
                tables = tomllib.loads(text)
        paths = tables.get("paths")
        state_dir = paths.get("state_dir") if isinstance(paths, dict) else None
        folders = [state_dir] if state_dir else [*_FOLDER.findall(text), STATE_DIR]  # the key may be the mistake
    yield from (Path(str(name)) for name in folders if name)


def refused_while_held(config: Path | None, overrides: Mapping[str, object], problem: str) -> NotWhole | None:
    """Return the error of a start refused for this problem while the desk holds something; None if it does not.

    Raises MayPass when the journal cannot be read now.
    """
    place = _place_that_holds(config, overrides)
    return None if place is None else NotWhole(place, f"it cannot start: {problem}")


def refused_unread(config: Path | None, overrides: Mapping[str, object], problem: str) -> NotRead | None:
    """Return the error of a start refused for this problem where no journal can be read; None where one can."""
    place = next((place for place in _places(config, overrides) if _is_unreadable(place)), None)
    return None if place is None else NotRead(place, f"it cannot start: {problem}")


def _is_unreadable(place: Path) -> bool:
    try:
        if not place.is_dir():
            return False
        enter(place)
        peek(place)
    except JournalError:
        return True
    except (MayPass, StateDirError, OSError):
        return False
    return False


def _place_that_holds(config: Path | None, overrides: Mapping[str, object]) -> Path | None:
    return next((place for place in _places(config, overrides) if _may_hold(place)), None)


def _may_hold(place: Path) -> bool:
    """Return False where a broker's desk in this directory certainly holds nothing. Raises MayPass."""
    try:
        if not place.is_dir():
            return False
        enter(place)
        meta = peek(place)
        if meta is None or meta.get("mode") not in ("paper", "live"):
            return False
        with closing(JournalReader(standing(place))) as reader, reading(reader.path):
            snapshot, last = next(reader.newest_snapshots(), None), reader.last_entry()
            if last is None:
                return False
            if not isinstance(snapshot, Snapshot) or not snapshot.whole or snapshot.event_id != last.id:
                return _exposed(reader)  # it did not stop cleanly
    except MayPass:
        raise
    except (StateDirError, JournalError, OSError):
        return False  # no start is possible on it anyway
    state = msgspec.json.decode(snapshot.state)
    orders = state.get("orders") or {}
    return bool(state["book"].get("positions")) or any(order.get("purpose") != "foreign" for order in orders.values())


def _exposed(reader: JournalReader) -> bool:
    """Return whether the desk holds something; True where that is unknown without its strategy."""
    try:
        return recovered_desk(reader).machine.state.exposed
    except JournalError as error:
        return isinstance(error.__cause__, ValueError)


def tell_not_started(config: Path | None, error: NotWhole, log: Log) -> None:
    """Raise the alarm of a start that was refused: run `alarms.command`, once an hour for the same problem."""
    problem, place = _as_text(str(error)), _as_text(str(error.place))
    with suppress(ConfigError, OSError):
        alarms, told_file = _alarms(config), error.place / TOLD_FILE
        if not alarms.command or (told_file.exists() and _told_lately(told_file, problem)):
            return
        told_file.write_text(problem, encoding="utf-8")
        tell_now(alarms, place, error.alarm, problem, log, halted=True)


def _alarms(config: Path | None) -> AlarmsTable:
    """Return `[alarms]`; of a file that is not valid TOML, from that table's own lines."""
    try:
        return load(config, {}, only=("alarms",)).alarms
    except ConfigError:
        text = "" if config is None else config.read_text(encoding="utf-8", errors="replace")
        match = _ALARMS.search(text)
        if match is None:
            raise
        with suppress(tomllib.TOMLDecodeError):
            keys = tomllib.loads(match[0])["alarms"]
            return load(None, {f"alarms.{key}": value for key, value in keys.items()}, only=("alarms",)).alarms
        raise


def _as_text(word: str) -> str:
    """Return a path's text with bytes that cannot be encoded replaced."""
    return word.encode("utf-8", "backslashreplace").decode("utf-8")


def _told_lately(told_file: Path, problem: str) -> bool:
    return (
        told_file.read_text(encoding="utf-8", errors="replace") == problem
        and abs(time.time() - told_file.stat().st_mtime) < TOLD_AGAIN_S  # newer than now: the clock was set back
    )
