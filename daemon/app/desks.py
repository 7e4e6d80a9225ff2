"""All desks of a host: each one's status from its journal, whether a daemon runs on it, and why it is halted.

Read-only; daemons may run meanwhile. A journal that cannot be read gets its own line and hides no other desk.
Root reads each desk as the user who owns its folder.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import msgspec
from msgspec.structs import replace
from rich.console import Console
from rich.table import Table

from daemon.config.limits_shown import journaled_origins, limits_of
from daemon.core.session import new_york_text
from daemon.engine.recover import recovered_desk
from daemon.engine.state_dir import locked_by
from daemon.host.own_files import StateDirError, as_owner
from daemon.host.state_place import configured_state_dir
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError
from daemon.operator.status import DeskStatus, holdings_in_words, option_fills_of, status_of, unreadable_desk
from daemon.reports.heads import left_alone

ROOT = Path("/var/lib/rltrader")  # the units' state directories


def configured_desk() -> Path | None:
    """Return the state directory of ./config.toml and the environment where it has a journal. Raises StateDirError."""
    path = configured_state_dir()
    return path if (path / FILE).exists() else None


def found(root: Path) -> list[Path]:
    """Return `root` and its folders that hold a journal, by name. Raises StateDirError for none."""
    try:
        folders = [path.parent for pattern in (FILE, f"*/{FILE}") for path in root.glob(pattern)]
    except OSError as error:
        raise StateDirError(
            f"{root}: cannot be read: {error.strerror}: run it as root or as the desks' user"
        ) from error
    if not folders:
        raise StateDirError(
            f"{root}: no desk has a journal here: name one with --state-dir, or their parent folder with --desks"
        )
    return sorted(folders)


def desk_of(path: Path) -> DeskStatus:
    """Return the status from the journal in `path`; `problem` reports an unreadable journal."""
    try:
        with closing(JournalReader(path / FILE)) as reader:
            machine = recovered_desk(reader).machine
            state, market = machine.state, machine.market_state
            meta = reader.meta()
            limits = limits_of(meta["strategy"], state.trading, journaled_origins(reader))
            alone = left_alone(reader)
        status = status_of(state, meta.get("desk", ""))
        return replace(
            status,
            state_dir=str(path),
            process=locked_by(path),
            limits=limits,
            left_alone=alone,
            option_fills=option_fills_of(market),
        )
    except (JournalError, StateDirError, sqlite3.Error, OSError, ValueError, KeyError) as error:
        return unreadable_desk(str(path), f"{type(error).__name__}: {error}")


def _seen(path: Path) -> DeskStatus:
    """Do as `desk_of`, but root reads as the folder's owner."""
    try:
        return msgspec.json.decode(as_owner(path, lambda: msgspec.json.encode(desk_of(path))), type=DeskStatus)
    except (OSError, msgspec.DecodeError) as error:
        return unreadable_desk(str(path), f"{type(error).__name__}: {error}")


def show_one(path: Path) -> int:
    """Print the desk of `path` as one JSON object; returns 0, or 1 when it could not be read."""
    desk = desk_of(path)
    sys.stdout.write(json.dumps(msgspec.to_builtins(desk)) + "\n")
    return int(bool(desk.problem))


def show(root: Path, console: Console, *, as_json: bool) -> int:
    """Print all desks below `root`; returns 0, or 1 when one could not be read. Raises StateDirError."""
    desks = [_seen(path) for path in found(root)]
    if as_json:
        for desk in desks:
            sys.stdout.write(json.dumps(msgspec.to_builtins(desk)) + "\n")
    else:
        console.print(_table(desks))
    return int(any(desk.problem for desk in desks))


def _table(desks: list[DeskStatus]) -> Table:
    table = Table(
        "desk", "strategy", "account", "daemon", "trading", "equity USD", "holds", "last basket", "last event"
    )
    for desk in desks:
        if desk.problem:
            table.add_row(desk.state_dir, "", "", "", desk.problem)
            continue
        trading = f"halted: {desk.halt}" if desk.halt else "reconciled" if desk.reconciled else "not reconciled"
        orders = f"; {desk.orders} orders" if desk.orders else ""
        table.add_row(
            desk.desk,
            desk.strategy,
            f"{desk.mode}: {desk.account}" if desk.mode not in desk.account else desk.account,
            f"process {desk.process}" if desk.process else "not running",
            trading,
            desk.equity_usd,
            (holdings_in_words(desk) or "flat") + orders,
            desk.last_basket or "none",
            new_york_text(desk.time_ns) if desk.seq else "",
        )
    return table
