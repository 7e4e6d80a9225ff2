"""All desks of a host side by side: what each one's journal says, whether a daemon runs on it, and why one is halted.

It reads only, beside running daemons too. A journal that cannot be read is a line of its own and hides no other desk.
Root reads each desk as the user who owns its folder.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.table import Table

from daemon.config.limits_shown import Limit, journaled_origins, limits_of
from daemon.core.session import new_york_text
from daemon.core.state import State
from daemon.engine.journal import FILE, JournalError, JournalReader
from daemon.engine.recover import recovered_desk
from daemon.engine.state_dir import locked_by
from daemon.host.own_files import StateDirError, as_owner

ROOT = Path("/var/lib/rltrader")  # the units' state directories


class Held(msgspec.Struct, frozen=True):
    """A position: contracts or shares of `symbol`, and what was paid for them in USD."""

    symbol: str
    quantity: int
    cost_usd: str


class Desk(msgspec.Struct, frozen=True):
    """One desk as its journal says. Money is USD as text; `problem` "" when all of it could be read."""

    state_dir: str
    name: str = ""
    strategy: str = ""
    mode: str = ""
    account: str = ""  # paper or live, and the number where it is known
    process: str = ""  # of the daemon that runs on it, "" for none
    reconciled: bool = False
    halt: str = ""  # its reason and detail
    equity_usd: str = ""
    cash_usd: str = ""
    positions: tuple[Held, ...] = ()
    orders: int = 0  # working
    last_basket: str = ""  # date of the last basket that was due
    last_event: str = ""  # New York time
    limits: tuple[Limit, ...] = ()  # in force, as the newest start journaled them
    problem: str = ""


def found(root: Path) -> list[Path]:
    """`root` and the folders in it, as far as they hold a journal, by name. Raises StateDirError for none."""
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


def desk_of(path: Path) -> Desk:
    """What the journal in `path` says; a journal that cannot be read is said by `problem`."""
    try:
        reader = JournalReader(path / FILE)
        try:
            state = recovered_desk(reader).machine.state
            meta = reader.meta()
            origins = journaled_origins(reader)
        finally:
            reader.close()
        return _told(path, meta, state, origins)
    except (JournalError, StateDirError, sqlite3.Error, OSError, ValueError, KeyError) as error:
        return Desk(str(path), problem=f"{type(error).__name__}: {error}")


def _seen(path: Path) -> Desk:
    """As `desk_of`; root looks as the user who owns the folder."""
    try:
        return msgspec.json.decode(as_owner(path, lambda: msgspec.json.encode(desk_of(path))), type=Desk)
    except (OSError, msgspec.DecodeError) as error:
        return Desk(str(path), problem=f"{type(error).__name__}: {error}")


def show_one(path: Path) -> int:
    """Print the desk of `path` as one JSON object; returns 0, or 1 when it could not be read."""
    desk = desk_of(path)
    sys.stdout.write(json.dumps(msgspec.to_builtins(desk)) + "\n")
    return int(bool(desk.problem))


def _told(path: Path, meta: dict[str, str], state: State[Any], origins: dict[str, tuple[str, ...]]) -> Desk:
    halt, book = state.risk.halt, state.book
    return Desk(
        str(path),
        name=meta.get("desk", ""),
        strategy=meta["strategy"],
        mode=meta["mode"],
        account=" ".join(filter(None, (meta["account"], state.broker.account))),
        process=locked_by(path),
        reconciled=state.risk.reconciled,
        halt=f"{halt.reason}: {halt.detail}" if halt is not None else "",
        equity_usd=f"{book.equity:.2f}",
        cash_usd=f"{book.cash:.2f}",
        positions=tuple(Held(p.symbol, p.quantity, f"{p.cost:.2f}") for p in book.positions.values()),
        orders=sum(order.working for order in state.orders.values()),
        last_basket=state.basket.date,
        last_event=new_york_text(state.now_ns) if state.seq else "",
        limits=limits_of(meta["strategy"], state.trading, origins),
    )


def show(root: Path, console: Console, *, as_json: bool) -> int:
    """Print all desks below `root`; returns 0, or 1 when one could not be read. Raises StateDirError."""
    desks = [_seen(path) for path in found(root)]
    if as_json:
        for desk in desks:
            sys.stdout.write(json.dumps(msgspec.to_builtins(desk)) + "\n")
    else:
        console.print(_table(desks))
    return int(any(desk.problem for desk in desks))


def _table(desks: list[Desk]) -> Table:
    table = Table(
        "desk", "strategy", "account", "daemon", "trading", "equity USD", "holds", "last basket", "last event"
    )
    for desk in desks:
        if desk.problem:
            table.add_row(desk.state_dir, "", "", "", desk.problem)
            continue
        trading = f"halted: {desk.halt}" if desk.halt else "reconciled" if desk.reconciled else "not reconciled"
        held = ", ".join(f"{held.quantity} {held.symbol}" for held in desk.positions[:5]) or "flat"
        more = f", {len(desk.positions) - 5} more" if len(desk.positions) > 5 else ""
        orders = f"; {desk.orders} orders" if desk.orders else ""
        table.add_row(
            desk.name,
            desk.strategy,
            f"{desk.mode}: {desk.account}" if desk.mode not in desk.account else desk.account,
            f"process {desk.process}" if desk.process else "not running",
            trading,
            desk.equity_usd,
            held + more + orders,
            desk.last_basket or "none",
            desk.last_event,
        )
    return table
