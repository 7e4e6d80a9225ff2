"""Several desks at once: a line for each, totals by account and by kind of money. Pure: statuses in, a structure out.

Real money, paper accounts and recorded data are never added to each other. Amounts are USD.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from daemon.operator.status import DeskStatus, holdings_in_words, trading_in_words

REAL, PAPER, DRY, RECORDED = "real money", "paper account", "dry run", "recorded data"
KINDS = {"live": REAL, "paper": PAPER, "dry_run": DRY}
ORDER = (REAL, PAPER, DRY, RECORDED)
TRADING_MOST = 200  # characters: a halt may name many holdings, and a desk is one line of a table here


class FleetLine(msgspec.Struct, frozen=True):
    """A desk. `day_usd` is the gain of `session`; None and "" where nothing is known."""

    name: str
    strategy: str
    money: str  # one of ORDER
    account: str
    running: bool
    trading: str  # trades, halted, paused, claim broken, not reconciled: with the reason, cut at TRADING_MOST
    may_trade: bool
    equity_usd: float | None
    exposed_usd: float | None  # worth of all positions at the newest marks
    exposure: float | None  # of the equity, 0 to 1 and beyond
    day_usd: float | None
    session: str  # New York date
    drawdown: float
    holds: str
    orders: int
    alarms: int  # of the New York day of the newest event; on the page, of recorded data, of the whole run
    alarm: str  # the newest one's name
    time: float  # newest event, seconds since 1970 UTC
    lag_s: float | None  # since the newest event, below 0 where that is ahead of this host; None for recorded data
    problem: str = ""
    state_dir: str = ""


class FleetTotal(msgspec.Struct, frozen=True):
    """The sum of some desks: of one account, or of all of one kind of money (`account` "")."""

    money: str
    account: str
    desks: int
    equity_usd: float
    exposed_usd: float
    exposure: float | None
    day_usd: float | None
    session: str  # the newest session: only its desks count in `day_usd`
    counted: int  # number of these desks
    alarms: int


class Fleet(msgspec.Struct, frozen=True):
    """All desks, the totals in the order of ORDER, and remarks on them."""

    desks: tuple[FleetLine, ...]
    totals: tuple[FleetTotal, ...]
    remarks: tuple[str, ...]


def fleet_of(desks: Sequence[tuple[str, DeskStatus]], now_s: float) -> Fleet:
    """Return the fleet of these names and statuses; `now_s` is this host's clock, seconds since 1970 UTC."""
    lines = tuple(line_of(name, status, now_s) for name, status in desks)
    counted_lines, remarks = _once_for_each_account(lines)
    totals = tuple(total for money in ORDER for total in _totals(money, counted_lines))
    kinds = [money for money in ORDER if any(line.money == money for line in counted_lines)]
    if len(kinds) > 1:
        remarks.append(f"Totals are kept apart: {', '.join(kinds)} are never added to each other.")
    return Fleet(lines, totals, tuple(remarks))


def line_of(name: str, status: DeskStatus, now_s: float) -> FleetLine:
    """Return a desk's line."""
    equity, exposure = _number(status.equity_usd), _number(status.exposed_usd)
    money = KINDS.get(status.mode, RECORDED)
    trading, may = trading_in_words(status)
    return FleetLine(
        name=name,
        strategy=status.strategy,
        money=money,
        account=status.account,
        running=bool(status.process),
        trading=trading if len(trading) <= TRADING_MOST else f"{trading[: TRADING_MOST - 1]}…",
        may_trade=may,
        equity_usd=equity,
        exposed_usd=exposure,
        exposure=_share(exposure, equity),
        day_usd=_number(status.day_usd) if status.session else None,
        session=status.session,
        drawdown=status.drawdown,
        holds=holdings_in_words(status) or "flat",
        orders=status.orders,
        alarms=status.alarms,
        alarm=status.alarm,
        time=status.time_ns / 1e9,
        lag_s=now_s - status.time_ns / 1e9 if status.time_ns and money != RECORDED else None,
        problem=status.problem,
        state_dir=status.state_dir,
    )


def distinct(name_rows: Sequence[tuple[str, ...]]) -> list[str]:
    """Return a name for each desk: the first of its own that is unique at that place, else its last, numbered.

    The first names are "" where a desk has none; the last ones are those of `folder_names`.
    """
    often = [Counter(parts[place] for parts in name_rows) for place in range(len(name_rows[0]))] if name_rows else []
    names: list[str] = []
    for parts in name_rows:
        label = next((name for name, count in zip(parts, often, strict=True) if name and count[name] == 1), parts[-1])
        chosen, number = label, 2
        while chosen in names:
            chosen, number = f"{label} ({number})", number + 1
        names.append(chosen)
    return names


def folder_names(state_dir: Path) -> tuple[str, str]:
    """Return the names that a desk's folder gives it: its own, and its parent's where several are called `state`."""
    folder = state_dir.resolve()
    return folder.name, folder.parent.name or folder.name


def _once_for_each_account(lines: Sequence[FleetLine]) -> tuple[list[FleetLine], list[str]]:
    """Return one desk for each account (the running one, else that of the newest event) and remarks."""
    by_account: dict[tuple[str, str], list[FleetLine]] = {}
    counted_lines, remarks = [], []
    for line in lines:
        if line.problem:
            remarks.append(f"{line.name} could not be read and counts in no total.")
        elif line.money in (REAL, PAPER) and " " in line.account:  # the broker has reported its number
            by_account.setdefault((line.money, line.account), []).append(line)
        else:
            counted_lines.append(line)
    for (_, account), account_lines in by_account.items():
        newest = max(account_lines, key=lambda line: (line.running, line.time))
        counted_lines.append(newest)
        if len(account_lines) > 1:
            names = " and ".join(line.name for line in account_lines)
            remarks.append(f"{names} are desks of one account ({account}): it counts once, as {newest.name} has it.")
    return counted_lines, remarks


def _totals(money: str, lines: Sequence[FleetLine]) -> Iterator[FleetTotal]:
    of_kind = [line for line in lines if line.money == money]
    if money in (REAL, PAPER) and len(of_kind) > 1:
        for line in of_kind:
            yield _total(money, line.account, [line])
    if of_kind:
        yield _total(money, "", of_kind)


def _total(money: str, account: str, lines: Sequence[FleetLine]) -> FleetTotal:
    equity, exposure = sum(line.equity_usd or 0.0 for line in lines), sum(line.exposed_usd or 0.0 for line in lines)
    session = max(line.session for line in lines)
    of_day = [line.day_usd for line in lines if line.session == session and line.day_usd is not None]
    return FleetTotal(
        money=money,
        account=account,
        desks=len(lines),
        equity_usd=round(equity, 2),
        exposed_usd=round(exposure, 2),
        exposure=_share(exposure, equity),
        day_usd=round(sum(of_day), 2) if of_day else None,
        session=session,
        counted=len(of_day),
        alarms=sum(line.alarms for line in lines),
    )


def _number(text: str) -> float | None:
    return float(text) if text else None


def _share(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole is not None and whole > 0 else None
