"""Three desks behind one gateway, and each on an account of its own: in a quiet morning they do the same."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from strategies.kit.units import SECOND_NS
from tests.chaos.desks.market import calendar
from tests.chaos.gateway.floor import Floor, opened
from tests.chaos.gateway.plan import DESKS, END_MIN
from tests.chaos.gateway.verdict import owners
from tests.chaos.session import MINUTE_NS
from tests.support.desks.live_desk import Books

SEED = 11
STEP_S = 60.0
SOON_NS = 2 * SECOND_NS  # by which what the gateway adds may come later
Fill = tuple[str, str, str, str]


@dataclass(frozen=True)
class Morning:
    """What a desk did: its decisions, and the fills of its orders at the broker, each with its moment."""

    decisions: list[tuple[Any, ...]]
    fills: list[Fill]
    fill_ns: list[int]


def test_three_desks_of_one_account_do_what_each_does_on_its_own(tmp_path: Path) -> None:
    together = morning(tmp_path / "together", own=False)
    alone = morning(tmp_path / "alone", own=True)
    for desk in DESKS:
        assert together[desk].decisions == alone[desk].decisions, desk
        assert together[desk].fills == alone[desk].fills, desk
        pairs = zip(together[desk].fill_ns, alone[desk].fill_ns, strict=True)
        assert all(abs(together_ns - alone_ns) < SOON_NS for together_ns, alone_ns in pairs), desk
        assert together[desk].decisions, desk
        assert together[desk].fills, desk


def morning(folder: Path, *, own: bool) -> dict[str, Morning]:
    """What each desk does from before the open on, without any trouble; each order fills at once in full."""
    session = calendar()[3]
    (folder / "desks").mkdir(parents=True)
    with opened(SEED, [session], folder, own=own, fill_sizes=(1000, 1000)) as floor:
        while floor.now_ns() < session.open_ns + END_MIN * MINUTE_NS:
            floor.clock.pass_s(STEP_S)
            floor.tend()
        runs = [station.run for station in floor.stations]
        assert [run.desk.lives for run in runs] == [1] * len(DESKS)
        return {station.name: morning_of(floor, station.name, station.run.desk.books()) for station in floor.stations}


def morning_of(floor: Floor, name: str, books: Books | None) -> Morning:
    """The desk's morning by its journal and the broker's trades."""
    assert books is not None
    epoch = books.state.identity.epoch
    accounts = [floor.account, *(station.account for station in floor.stations)]
    fills, moments = [], []
    for account in accounts:
        owner_by_order = owners(account, {name: epoch})
        for trade in account.trades:
            if owner_by_order.get(trade.order_id) == name:
                order = account.orders[trade.order_id]
                fills.append((trade.symbol, order.side, str(abs(trade.quantity)), str(trade.price)))
                moments.append(trade.time_ns)
    return Morning([decided(row) for row in books.decisions], fills, moments)


def decided(row: dict[str, Any]) -> tuple[Any, ...]:
    """A decision without its own moment and the names of its orders."""
    target = json.loads(row["target"]) if row["target"] else None
    return row["kind"], row["bar_ns"], row["action"], row["outcome"], row["logits"], target
