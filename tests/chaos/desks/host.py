"""A host with several desks: each one's daemon, account and state of the session under way, and what looks after them.

It starts again what ended and writes configurations; it decides nothing about trouble and judges nothing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from simulator.server import RunningServer
from simulator.trading.account import Account
from simulator.virtual_clock import VirtualClock
from tests.chaos.desks import plan as desks_plan
from tests.chaos.desks.market import ByHand, Happening
from tests.chaos.plan import Trouble
from tests.chaos.session import Run
from tests.chaos.tally import Tally
from tests.support.desks.live_desk import LOOSE, write_config

if TYPE_CHECKING:  # it needs torch
    from tests.chaos.desks.stream import Stream


@dataclass(slots=True)
class Station:
    """One desk with its account, and how it fares in the session under way."""

    name: str
    run: Run
    account: Account
    config: Path
    drawn: list[tuple[Trouble, str]] = field(default_factory=list)  # troubles to come, and the stage each waits for
    back_ns: int = 0  # it is away until then
    baskets: int = 0
    by_hand: list[ByHand] = field(default_factory=list)  # what a person does beside it in the session under way
    look_ns: int = 0  # when that person looks whether it halted; 0: nothing was traded

    def stage(self, since_ns: int) -> set[str]:
        """Which stages of a basket the account shows: see `desks_plan.Own`."""
        orders = [order for order in list(self.account.orders.values())[-400:] if order.created_ns >= since_ns]
        sells, buys = ([order for order in orders if order.side == side] for side in ("sell", "buy"))
        phases = {"sells"} if sells else set()
        phases |= {"between"} if any(order.filled_qty for order in sells) and len(buys) < 2 else set()
        return phases | ({"buys"} if buys else set())


@dataclass(slots=True)
class Host:
    """The campaign under way."""

    seed: int
    folder: Path
    served: RunningServer
    clock: VirtualClock
    tally: Tally
    stations: list[Station]
    happenings: list[Happening]
    stream: Stream | None = None  # of the desk that learns; None without redis-server or torch
    problems: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    persons: int = 0  # orders of a person beside a desk that were taken
    resumed: list[str] = field(default_factory=list)  # halts that a person ended: desk and reason

    def now_ns(self) -> int:
        """The simulated time."""
        return self.clock.now_ns()

    def tend(self) -> None:
        """Look after every daemon once: one that is away and due comes back, one that ended is started again."""
        for station in self.stations:
            if not station.back_ns:
                station.run.watch()
            elif self.now_ns() >= station.back_ns:
                station.back_ns = 0
                station.run.start()

    def write(self, station: Station) -> None:
        """The desk's configuration on the clock as it runs now."""
        path = {"alpaca": {"trade_stream_url": self.served.server.trade_stream_url_of(station.account)}}
        models = {"paths": {"models_dir": str(self.folder / "models")}}
        state_dir = station.run.desk.state_dir
        redis = "" if self.stream is None else self.stream.address
        fractions = desks_plan.money(self.seed, station.name).fractions
        tables = (LOOSE, desks_plan.tables(station.name, self.folder, redis, fractions), path, models)
        write_config(station.config, self.served, self.clock, state_dir, *tables)

    def problem(self, date: str, station: Station, message: str) -> None:
        """Note what must not be."""
        self.problems.append(f"{date} {station.name}: {message[:1500]}")
        print(self.problems[-1], flush=True)
