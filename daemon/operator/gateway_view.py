"""A gateway's status file, read for the dashboard and reports. Pure except for the one read; amounts are USD."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from daemon.host.safe_decode import Unreadable, decode_with_type
from daemon.operator.status import first_named

STATUS_FILE = "status.json"
"""Name in the gateway's folder; written each second."""
BYTES_MOST = 4 << 20
STALE_S = 10.0


class SubAccountStatus(msgspec.Struct, frozen=True):
    """A sub-account in the file."""

    name: str
    cash: str
    equity: str
    open_orders: int = 0
    suspended: bool = False
    positions: dict[str, str] = {}


class AccountFigures(msgspec.Struct, frozen=True):
    """Cash and equity of all sub-accounts, or of the broker; "" where unknown."""

    cash: str
    equity: str = ""


class StatedAccount(msgspec.Struct, frozen=True):
    """The account behind the gateway."""

    account: str
    account_number: str


class StatusFile(msgspec.Struct, frozen=True):
    """The fields of the gateway's status file that are used here."""

    account: StatedAccount
    ready: bool
    away: str
    accounts: tuple[SubAccountStatus, ...]
    sum: AccountFigures
    broker: AccountFigures
    halt: dict[str, str] | None = None
    differences: tuple[str, ...] = ()
    blocked: str = ""


class GatewayLine(msgspec.Struct, frozen=True):
    """A sub-account, the sum, or the broker (`kind`), as a line of the page; None where unknown."""

    kind: str
    name: str
    cash_usd: float | None
    equity_usd: float | None
    orders: int | None = None
    holds: str = ""
    suspended: bool = False


class GatewayView(msgspec.Struct, frozen=True):
    """A gateway as the page shows it. `state` is one of ready, blocked, away, silent, unreadable.

    `lag_s` is the file's age.
    """

    folder: str
    account: str
    money: str
    state: str
    detail: str
    lag_s: float | None
    lines: tuple[GatewayLine, ...] = ()
    differences: tuple[str, ...] = ()
    halt: str = ""


def gateway_view(folder: Path, now_s: float) -> GatewayView:
    """Return the content of the file in `folder`; `now_s` is this host's clock, seconds since 1970 UTC."""
    try:
        with (folder / STATUS_FILE).open("rb") as file:
            lag_s = abs(now_s - os.fstat(file.fileno()).st_mtime)  # the file is newer: the clock was set back since
            status: StatusFile = decode_with_type(msgspec.json.Decoder(StatusFile).decode, file.read(BYTES_MOST))
        lines = (*(_line(row) for row in status.accounts), *_compare(status))
    except (OSError, Unreadable, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "its status file cannot be read"
        return GatewayView(str(folder), "", "", "unreadable", str(why), None)
    silent = lag_s > STALE_S
    why = status.away or (f"the account takes no orders: {status.blocked}" if status.blocked else "")
    return GatewayView(
        folder=str(folder),
        account=status.account.account_number,
        money="real money" if status.account.account == "live" else "paper account",
        state="silent" if silent else "away" if not status.ready else "blocked" if status.blocked else "ready",
        detail="it writes no status any more: does it run?" if silent else why,
        lag_s=lag_s,
        lines=lines,
        differences=status.differences,
        halt="" if status.halt is None else f"{status.halt.get('reason', '')}: {status.halt.get('detail', '')}",
    )


def _line(row: SubAccountStatus) -> GatewayLine:
    return GatewayLine(
        kind="sub-account",
        name=row.name,
        cash_usd=float(row.cash),
        equity_usd=float(row.equity),
        orders=row.open_orders,
        holds=first_named([f"{quantity} {symbol}" for symbol, quantity in row.positions.items()]) or "flat",
        suspended=row.suspended,
    )


def _compare(status: StatusFile) -> tuple[GatewayLine, GatewayLine]:
    limits = (("sum", "all together", status.sum), ("broker", "by the broker", status.broker))
    first, second = (
        GatewayLine(kind, name, float(of.cash) if of.cash else None, float(of.equity) if of.equity else None)
        for kind, name, of in limits
    )
    return first, second
