"""Check a live desk before anything is written: strategy, broker, clock, calendar, model.

Nothing is sent and no stream is opened. A pointer to a broken model does not stop the start where positions may be
open: the version that answered last continues.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from daemon.app.desk import CheckedDesk, OpenDesk, open_desk, say_held
from daemon.app.live.model_choice import choose_model
from daemon.brokers.api import Broker
from daemon.brokers.registry import broker_of
from daemon.config.checks import quotes_made_up_by
from daemon.config.clock import clock_of
from daemon.config.load import Credentials, DeskSettings
from daemon.config.strategy import strategy_of
from daemon.engine.state_dir import wait_until_free
from daemon.host.account_lock import AccountLock, AccountTakenError, Holder, lock_folder
from daemon.host.safe_decode import prepare_types
from daemon.host.time.calendar import SessionCalendar
from daemon.host.time.clock import Clock
from daemon.operator.log import Log
from strategies.kit.contract import AnyStrategy, Spec
from strategies.kit.units import SECOND_NS
from strategies.registry import takes_streams

DRY_RUN = "dry_run"
QUOTES_MADE_UP = "option_quotes_synthetic"  # key in the journal's meta: the source of made-up option quotes
DAYS_A_SESSION = 1.5  # calendar days a session, at most, over many sessions
DAYS_MORE = 60  # extra days before those of a strategy's history
_DAYS_BACK: dict[str, Callable[[Spec], float]] = {
    "bar": lambda _: 0,
    "session": lambda spec: DAYS_A_SESSION * spec.history_bars + DAYS_MORE,
}


@dataclass(slots=True)
class Live(CheckedDesk):
    """A live desk that passed its checks."""

    credentials: Credentials
    dry_run: bool
    broker: Broker
    clock: Clock

    @property
    def mode(self) -> str:
        """`dry_run`, `paper` or `live`."""
        return DRY_RUN if self.dry_run else self.settings.desk.account

    @property
    def streams(self) -> bool:
        """Whether it takes the account's market streams; a desk that decides once a session reads quotes."""
        return takes_streams(self.strategy)

    def meta(self) -> dict[str, str]:
        """The journal's meta rows, without the epoch."""
        made_up = quotes_made_up_by(self.settings) if self.strategy.spec.chained else ""
        return self.identity(self.mode, self.settings.desk.account) | ({QUOTES_MADE_UP: made_up} if made_up else {})


def prepare_live(
    settings: DeskSettings, credentials: Credentials, *, dry_run: bool, clock: Clock | None = None
) -> Live:
    """Check broker, model and calendar. Raises CalendarError, ConfigError, ModelError: nothing was written yet.

    `clock` replaces the one that `[clock]` names. If the configured model is refused, the last model in this desk's
    journal is used, unless it changed or fails a check; `refused` is the reason. If none can be loaded, a desk that is
    exposed starts without a model; a fresh one, one that holds nothing, and a dry run raise.
    """
    strategy = strategy_of(settings)
    prepare_types()
    broker = broker_of(settings)
    clock = clock_of(settings) if clock is None else clock
    calendar = SessionCalendar.to_horizon(_first_date(strategy, clock.now_ns()))
    calendar.next_after(clock.now_ns())
    model, policy, refusal = choose_model(settings, strategy, dry_run=dry_run)
    return Live(settings, strategy, calendar, model, policy, credentials, dry_run, broker, clock, refused=refusal)


def _first_date(strategy: AnyStrategy, now_ns: int) -> str:
    """Return the calendar's first needed day: a daily desk's history is years long."""
    today = datetime.fromtimestamp(now_ns / SECOND_NS, UTC).date()
    return (today - timedelta(days=_DAYS_BACK[strategy.spec.decides](strategy.spec))).isoformat()


def open_live(live: Live, log: Log) -> tuple[AccountLock, OpenDesk]:
    """Lock account and directory, recover the desk. Raises as `account_lock` and `open_desk` do."""
    say_held(live.settings.paths.state_dir, log)
    account = account_lock(live)
    try:
        rotate_mib = live.settings.journal.rotate_mib
        return account, open_desk(live, live.meta(), secrets.token_hex(5), log, rotate_mib=rotate_mib)
    except BaseException:
        account.close()
        raise


def account_lock(live: Live) -> AccountLock:
    """Lock the desk's account by its key, unless it sends nothing. Raises StateDirError."""
    settings = live.settings
    holder = Holder(settings.desk.name, str(settings.paths.state_dir.absolute()), os.getpid(), live.streams)
    lock = AccountLock(lock_folder(), holder, live.broker.service(settings))
    with contextlib.suppress(OSError):  # a refusal of the directory itself has more details
        wait_until_free(settings.paths.state_dir)
    if live.dry_run:
        leave_streams(live, lock)
    else:
        lock.claim_key(live.credentials.key)
    return lock


def leave_streams(live: Live, account: AccountLock) -> None:
    """Raise AccountTakenError where this dry run would take the market streams of a desk of this host."""
    if live.streams and (problem := account.streams_taken(live.credentials.key)):
        raise AccountTakenError(problem)
