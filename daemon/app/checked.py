"""A desk that passed every check, before anything is written."""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.config.load import Settings
from daemon.config.tables import AUTO, STOCK_FEEDS
from daemon.host.time.calendar import SessionCalendar
from daemon.journal.universe import made_with
from daemon.models.runtime import NoPolicy, OnnxPolicy
from daemon.models.store import LoadedModel
from strategies.kit.contract import AnyStrategy

RECORDED = STOCK_FEEDS[0]
"""The feed of a replay, whose bars are on file; a live desk's `auto` was replaced by a name before."""


@dataclass(slots=True)
class CheckedDesk:
    """A desk that passed every check. Nothing is written yet."""

    settings: Settings
    strategy: AnyStrategy
    calendar: SessionCalendar
    model: LoadedModel
    policy: OnnxPolicy | NoPolicy
    refused: str = field(default="", kw_only=True)
    """Why the configured version was refused and another one answers instead, or none; "" if it was not."""

    def identity(self, mode: str, account: str) -> dict[str, str]:
        """The journal's meta rows that every kind of desk has, without the epoch."""
        desk = self.settings.desk
        return {
            "mode": mode,
            "account": account,
            "strategy": self.strategy.spec.name,
            "feed": RECORDED if self.settings.feed.name == AUTO else self.settings.feed.name,
            "desk": desk.name,
            **made_with(self.strategy.spec),
        }
