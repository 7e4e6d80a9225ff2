"""The guard of one desk behind the gateway: as the years know a run, its desk is the whole of it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from daemon.guard.watch import Close, Fence
from tests.years import guard
from tests.years.guard import Guarded

if TYPE_CHECKING:
    from tests.years.gateway.floor import Floor, Station


class GuardedStation:
    """A desk of the floor as its guard's rules know a run. The guard's keys are the account's."""

    leapt_ns = 0  # no clock of this world leaps

    def __init__(
        self, floor: Floor, station: Station, tables: Mapping[str, Mapping[str, object]], config: Path
    ) -> None:
        self.floor, self.station, self.tables, self.config = floor, station, tables, config
        self.world, self.met, self.faults, self.desk = floor.world, floor.met, floor.faults, station.desk
        self.schedule = SimpleNamespace(seed=floor.plan.seed)
        self.now_ns = floor.now_ns
        self.guard_closes = any(key == "guard_closes" for _, key, _ in floor.plan.guard)  # `close` means `protect` here
        os.chdir(floor.folder)  # of the second path
        run: Any = self
        self.guarded = Guarded(run)
        acts = self.guarded.lives.on_action

        def acted(action: Any) -> None:
            acts(action)
            if isinstance(action, Close) or (isinstance(action, Fence) and action.on):
                self.problem("guard_shared", f"{type(action).__name__} in an account that others trade in")

        self.guarded.lives.on_action = acted

    @property
    def off(self) -> bool:
        """Whether the desk's host is."""
        return self.floor.off

    def problem(self, rule: str, text: str) -> None:
        """Note a broken rule."""
        self.floor.problem(rule, f"{self.station.name}: {text}")

    def closed_by_guard(self) -> None:
        """The guard must not: its rule says so."""

    def own_by_trades(self) -> Mapping[str, Decimal]:
        """What the desk holds by the server's trades, also while it is dead, of symbols that orders alone moved.

        Shares of an exercise may be a person's, and a split each holder's.
        """
        moved = {trade.symbol for trade in self.floor.account.trades if not trade.order_id}
        return {s: it for s, it in self.floor.desk_positions()[self.station.name].items() if s not in moved}

    def sells(self, order: Any) -> bool:
        """Whether an order sells the desk's shares, and not a sibling's or a person's."""
        names = (f"{self.station.epoch}-", f"{guard.PREFIX}-")
        return order.client_order_id.startswith(names) or self.floor.closing_calls.get(order.id) == self.station.name
