"""All desks of a host: each one's status from its journal, whether a daemon runs on it, why it is halted, and totals.

Read-only; daemons may run meanwhile. A journal that cannot be read gets its own line and hides no other desk.
Root reads each desk as the user who owns its folder.
"""

from __future__ import annotations

import contextlib
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec

from daemon.config.desks import checked_desks_at
from daemon.config.limits_shown import journaled_origins, limits_of
from daemon.core.limits import Limit
from daemon.core.step import Machine
from daemon.engine.recover import Recovered, recovered_desk
from daemon.engine.state_dir import locked_by, standing
from daemon.host.own_files import StateDirError, as_owner
from daemon.host.state_place import configured_state_dir
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import STRATEGY_FROM, STRATEGY_SPEC, JournalError, symbols_of
from daemon.operator.fleet import distinct, folder_names
from daemon.operator.status import DeskStatus, option_fills_of, status_of, unreadable_desk
from daemon.reports.decision import left_alone
from daemon.reports.record import alarms_since_midnight
from strategies.kit.entry import OwnStrategyError
from strategies.kit.quantity import from_json, to_json
from strategies.registry import stand_in

ROOT = Path("/var/lib/rltrader")  # the units' state directories


def configured_desk() -> Path | None:
    """Return the state directory of ./config.toml and the environment where it has a journal. Raises StateDirError."""
    path = configured_state_dir()
    return path if standing(path).exists() else None


class Journaled(msgspec.Struct, frozen=True):
    """Facts of a journal outside the state: limits of the newest start, symbols left alone by the newest decision.

    Also the number of alarms on the New York day of the newest event, and the newest one's name.
    """

    limits: tuple[Limit, ...] = ()
    left_alone: dict[str, str] = {}  # symbol to reason
    alarms: int = 0
    alarm: str = ""


def journal_facts(reader: JournalReader, machine: Machine) -> Journaled:
    """Read the facts of this journal outside the machine's state. Raises JournalError."""
    state = machine.state
    limits = limits_of(state.identity.strategy, state.trading, journaled_origins(reader))
    return Journaled(limits, left_alone(reader), *alarms_of(reader, machine))


def alarms_of(reader: JournalReader, machine: Machine) -> tuple[int, str]:
    """Return the number of alarms on the day of the newest event, and the newest one's name."""
    return alarms_since_midnight(reader, machine.state.now_ns) if machine.state.seq else (0, "")


def desk_status(path: Path, meta: dict[str, str], machine: Machine, facts: Journaled) -> DeskStatus:
    """Return the status of the desk in the folder `path`, as every command shows it, as a table or as JSON."""
    return replace(
        status_of(machine.state, meta.get("desk", "")),
        state_dir=str(path),
        process=locked_by(path),
        limits=facts.limits,
        left_alone=facts.left_alone,
        option_fills=option_fills_of(machine.market_state),
        tape=meta.get("tape", ""),
        synthetic=bool(meta.get("synthetic")),
        alarms=facts.alarms,
        alarm=facts.alarm,
    )


def desk_of(path: Path) -> DeskStatus:
    """Return the status from the journal in `path`; `problem` reports an unreadable journal."""
    try:
        with closing(JournalReader(path / FILE)) as reader:
            machine = shown_desk(reader)[0].machine
            return desk_status(path, reader.meta(), machine, journal_facts(reader, machine))
    except (JournalError, StateDirError, sqlite3.Error, OSError, ValueError, KeyError) as error:
        return unreadable_desk(str(path), f"{type(error).__name__}: {error}")


def shown_desk(reader: JournalReader) -> tuple[Recovered, str]:
    """Recover a desk to show it. The text says why its own strategy cannot be imported, "" where it can.

    The journal keeps enough of the strategy to show the desk and its positions, as at a start. Raises JournalError.
    """
    try:
        return recovered_desk(reader), ""
    except JournalError as error:
        meta = reader.meta()
        if not (isinstance(error.__cause__, OwnStrategyError) and STRATEGY_SPEC in meta):
            raise
        with contextlib.suppress(ValueError):
            stand_in(meta.get(STRATEGY_FROM, ""), meta[STRATEGY_SPEC], symbols_of(meta))
        return recovered_desk(reader), str(error.__cause__)


def _status_of(path: Path) -> DeskStatus:
    """Return the status as `desk_of` does; root reads as the folder's owner."""
    try:
        return msgspec.json.decode(
            as_owner(path, lambda: msgspec.json.encode(desk_of(path), enc_hook=to_json)),
            type=DeskStatus,
            dec_hook=from_json,
        )
    except (OSError, msgspec.DecodeError) as error:
        return unreadable_desk(str(path), f"{type(error).__name__}: {error}")


def desks_of(place: Path) -> list[tuple[str, DeskStatus]]:
    """Return each desk's name and status, of a start file or of a folder. Raises StateDirError, ConfigError."""
    named_desks = checked_desks_at(place)
    desks = [_status_of(desk.state_dir) for desk in named_desks]
    if place.is_file():
        return [(desk.name, replace(status, desk=desk.name)) for desk, status in zip(named_desks, desks, strict=True)]
    names = distinct([(desk.desk, *folder_names(Path(desk.state_dir))) for desk in desks])
    return list(zip(names, desks, strict=True))
