"""What a live desk is checked for before anything of it is written: strategy, calendar, model; and its clock.

Nothing is sent and no stream is opened. An outage of Alpaca is no reason to refuse.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from daemon.config import Credentials, Settings, sim_start_ns
from daemon.core.state import as_daily
from daemon.shell.calendar import SessionCalendar
from daemon.shell.clock import SECOND_NS, Clock
from daemon.shell.model_store import LoadedModel, check_rules, load
from daemon.shell.policy import OnnxPolicy
from strategies.contract import DailyStrategy, Strategy
from strategies.registry import strategy as strategy_named

DRY_RUN = "dry_run"
DAYS_A_SESSION = 1.5  # of the calendar, at most, over many sessions
DAYS_MORE = 60  # days before those that a strategy's history needs


@dataclass(slots=True)
class Live:
    """A live desk checked and ready to run."""

    settings: Settings
    credentials: Credentials
    dry_run: bool
    strategy: Strategy
    clock: Clock
    calendar: SessionCalendar
    model: LoadedModel
    policy: OnnxPolicy

    @property
    def daily(self) -> DailyStrategy | None:
        """The strategy of a daily desk; None for one that trades by the minute."""
        return as_daily(self.strategy)

    @property
    def mode(self) -> str:
        """`dry_run`, `paper` or `live`."""
        return DRY_RUN if self.dry_run else self.settings.desk.account

    def meta(self) -> dict[str, str]:
        """What the journal is made with, its epoch left out."""
        return {
            "mode": self.mode,
            "account": self.settings.desk.account,
            "strategy": self.strategy.spec.name,
            "feed": self.settings.feed.name,
            "desk": self.settings.desk.name,
        }


def prepare_live(settings: Settings, credentials: Credentials, *, dry_run: bool) -> Live:
    """Check model and calendar. Raises CalendarError, ModelError: nothing was written yet."""
    strategy = strategy_named(settings.desk.strategy)
    clock = clock_of(settings)
    calendar = SessionCalendar.to_horizon(_first_date(strategy, clock.now_ns()))
    calendar.next_after(clock.now_ns())
    model = load(settings.paths.models_dir, strategy, settings.policy.version)
    check_rules(model, strategy, settings.trading())
    policy = OnnxPolicy.open(model, strategy, settings.policy.provider, settings.policy.threads)
    return Live(settings, credentials, dry_run, strategy, clock, calendar, model, policy)


def clock_of(settings: Settings) -> Clock:
    """The daemon's clock: real, or simulated where the settings say so."""
    start_ns = sim_start_ns(settings.clock)
    if start_ns is None:
        return Clock.real()
    return Clock.simulated(settings.clock.anchor_unix_s, start_ns, settings.clock.rate)


def _first_date(strategy: Strategy, now_ns: int) -> str:
    """From when on the calendar is needed: a daily desk's history reaches back by years."""
    today = datetime.fromtimestamp(now_ns / SECOND_NS, UTC).date()
    if as_daily(strategy) is None:
        return today.isoformat()
    return (today - timedelta(days=DAYS_A_SESSION * strategy.spec.history_bars + DAYS_MORE)).isoformat()
