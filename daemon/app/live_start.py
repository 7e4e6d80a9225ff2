"""What a live desk is checked for before anything of it is written: strategy, calendar, model; then it is opened.

Nothing is sent and no stream is opened. An outage of the broker is no reason to refuse; neither is, where positions may
be open, a pointer in the model store that names something broken: the version that answered last goes on.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import msgspec

from daemon.app.desk import Start
from daemon.brokers.api import Broker
from daemon.brokers.registry import broker_of
from daemon.config.limits_shown import origins_of
from daemon.config.load import Credentials, Settings, sim_start_ns
from daemon.core.events import ModelPromoted, ModelVerified
from daemon.core.state import Identity
from daemon.engine.recover import Recovered, recovered_desk
from daemon.engine.rotation import rotate_when_due
from daemon.engine.segments import standing
from daemon.engine.state_dir import StateDir, open_state_dir, peek, wait_until_free
from daemon.host.account_lock import AccountLock, Holder, lock_folder
from daemon.host.own_files import StateDirError
from daemon.host.passing import MayPass, retry_while_busy
from daemon.host.time.calendar import SessionCalendar
from daemon.host.time.clock import Clock
from daemon.host.time.clock_watch import LeapWatch
from daemon.host.time.virtual_time import Participant
from daemon.journal.reader import JournalReader, reading
from daemon.journal.rows import JournalError, decode_event
from daemon.journal.writer import JournalWriter
from daemon.models.runtime import OnnxPolicy
from daemon.models.store import LoadedModel, ModelError, check_rules, load
from daemon.models.trial import try_model
from strategies.kit.contract import DailyStrategy, Strategy, configured, once_a_session
from strategies.kit.units import SECOND_NS
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
    broker: Broker
    clock: Clock
    calendar: SessionCalendar
    model: LoadedModel
    policy: OnnxPolicy
    refused: str = ""  # why the version that was asked for is not the one that answers, "" where it is

    @property
    def daily(self) -> DailyStrategy | None:
        """The strategy of a daily desk; None for one that trades by the minute."""
        return self.strategy if once_a_session(self.strategy) else None

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
    """Check broker, model and calendar. Raises CalendarError, ConfigError, ModelError: nothing was written yet.

    Where this desk's journal knows a version that answered before, and the one asked for is refused, it starts with
    that one as long as it is still the same and passes every check; `refused` says why. A fresh desk and a dry run
    refuse.
    """
    strategy, broker = strategy_named(settings.desk.strategy), broker_of(settings)
    clock = clock_of(settings)
    calendar = SessionCalendar.to_horizon(_first_date(strategy, clock.now_ns()))
    calendar.next_after(clock.now_ns())
    last = None if dry_run else _answered_last(settings)
    refused = ""
    try:
        model, policy = _verified(settings, strategy, settings.policy.version, last)
    except ModelError as error:
        if last is None:
            raise
        try:
            model, policy = _verified(settings, strategy, last.version, last)
        except ModelError:
            raise error from None
        if model.digest != last.digest:  # the same name, another policy
            raise
        refused = str(error)
    return Live(settings, credentials, dry_run, strategy, broker, clock, calendar, model, policy, refused)


def open_live(live: Live, log: Callable[..., None]) -> tuple[AccountLock, StateDir, Recovered, JournalWriter]:
    """Lock account and directory, recover the desk; a journal that is due is rotated first. Raises as its parts do."""
    settings = live.settings
    account = account_lock(live)
    try:
        state_dir = open_state_dir(settings.paths.state_dir, live.meta(), secrets.token_hex(5))
    except BaseException:
        account.close()
        raise
    try:
        recovered = _recovered(live, state_dir)
        if rotate_when_due(state_dir, recovered, settings.journal.rotate_mib, log):
            recovered = _recovered(live, state_dir)
        return account, state_dir, recovered, JournalWriter(state_dir.journal, settings.journal.ballast_mib)
    except BaseException:
        state_dir.journal.close()
        state_dir.close()
        account.close()
        raise


def _recovered(live: Live, state_dir: StateDir) -> Recovered:
    reader = state_dir.journal.reader()
    return retry_while_busy(lambda: recovered_desk(reader, live.settings.trading()))


def account_lock(live: Live) -> AccountLock:
    """The desk's locks: its account by the key, unless it sends nothing. Raises StateDirError."""
    settings = live.settings
    holder = Holder(settings.desk.name, str(settings.paths.state_dir.absolute()), os.getpid())
    lock = AccountLock(lock_folder(), holder, live.broker.service(settings))
    with contextlib.suppress(OSError):  # the directory's own refusal says more, here and where it is locked
        wait_until_free(settings.paths.state_dir)
    if not live.dry_run:
        lock.claim_key(live.credentials.key)
    return lock


class _Answered(NamedTuple):
    """The version that answered last by the journal."""

    version: str
    digest: str


def _verified(
    settings: Settings, strategy: Strategy, version: str, last: _Answered | None
) -> tuple[LoadedModel, OnnxPolicy]:
    """The version after all checks. One that this journal did not hear before is tried in a child first, unless the
    desk is fresh and trades on paper: there is nothing yet that it could leave unwatched. Raises ModelError.
    """
    chosen = settings.policy
    model = load(settings.paths.models_dir, strategy, version, chosen.public_key)
    check_rules(model, strategy, settings.trading())
    if (last is not None or settings.desk.account == "live") and (model.version, model.digest) != last:
        try_model(model, symbols=configured(strategy.spec))
    return model, OnnxPolicy.open(model, strategy, chosen.provider, chosen.threads)


def _answered_last(settings: Settings) -> _Answered | None:
    """What the desk's journal says; None without a journal of this desk, or where it cannot be read: its own checks
    speak of that. Raises MayPass where it cannot be read at the moment.
    """
    try:
        payload = retry_while_busy(lambda: _newest_answer(settings))
        event = decode_event(payload) if payload else None
    except MayPass:
        raise
    except (StateDirError, JournalError, OSError, msgspec.DecodeError):
        return None
    return _Answered(event.version, event.digest) if isinstance(event, ModelVerified | ModelPromoted) else None


def _newest_answer(settings: Settings) -> str | None:
    path, desk = settings.paths.state_dir, settings.desk
    meta = peek(path)
    if meta is None or (meta.get("mode"), meta.get("strategy")) != (desk.account, desk.strategy):
        return None
    with closing(JournalReader(standing(path))) as reader, reading(reader.path):
        return reader.newest_of(ModelVerified.__name__, ModelPromoted.__name__)


def start_of(live: Live, identity: Identity, code: str) -> Start:
    """What the desk's start journals first. `code` is the digest of the deciding code."""
    settings = live.settings
    number = settings.desk.account_number
    return Start(identity, settings.trading(), live.model, code, number, origins_of(settings))


def clock_of(settings: Settings) -> Clock:
    """The daemon's clock: real, simulated, or virtual: then an OSError is raised where nothing serves it."""
    if settings.clock.socket:
        return Clock.virtual(Participant(settings.clock.socket, settings.desk.name))
    start_ns = sim_start_ns(settings.clock)
    if start_ns is None:
        return Clock.real(watch=LeapWatch())
    return Clock.simulated(settings.clock.anchor_unix_s, start_ns, settings.clock.rate, watch=LeapWatch())


def _first_date(strategy: Strategy, now_ns: int) -> str:
    """From when on the calendar is needed: a daily desk's history reaches back by years."""
    today = datetime.fromtimestamp(now_ns / SECOND_NS, UTC).date()
    if strategy.spec.decides == "bar":
        return today.isoformat()
    return (today - timedelta(days=DAYS_A_SESSION * strategy.spec.history_bars + DAYS_MORE)).isoformat()
