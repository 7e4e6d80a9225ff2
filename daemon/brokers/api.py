"""The broker interface: a market feed, trading, and an admin side, behind one connection.

A broker is a folder next to this file that implements these protocols, and one line of `registry.py`; `daemon/app` and
`daemon/cli` know nothing else of it. `docs/ADD_A_BROKER.md` is the guide.

Every method runs on the event loop and never blocks it. Times are nanoseconds UTC of the desk's clock, money is USD,
durations are real seconds. The step decides what an outage, a limit or a bad answer means, from events; the words in
those events are those of `daemon.core.orders` (orders) and `daemon.core.broker.ledger` (ledger lines).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import msgspec

from daemon.config.load import Credentials, DeskSettings
from daemon.core.effects import AnyEffect, SubmitOrder
from daemon.core.events import Announcement, BrokerOrder, BrokerPosition, Event
from daemon.core.session import as_traded
from daemon.core.state import BrokerState, Identity, State
from daemon.host.time.calendar import SessionCalendar
from daemon.host.time.clock import Clock
from strategies.kit.contract import AnyStrategy, Session

# --- failures -----------------------------------------------------------------------------------------------------


class BrokerError(Exception):
    """The broker did not do, or did not confirm, a request. The text names no key and no secret."""


class BrokerRefused(BrokerError):
    """A definite refusal. `of_keys`: the keys are refused; `unknown_keys`: no account has such keys."""

    of_keys = unknown_keys = False


class BrokerUnreadable(BrokerError, ValueError):
    """The broker's answer cannot be read."""


# --- what a desk provides -----------------------------------------------------------------------------------------

Put = Callable[[Event], None]
"""Puts an event into the desk's intake: at once, in the order of the calls. Raises IntakeFull, which ends the desk."""


class EventLogger(Protocol):
    """Logs a declared event of `docs/LOGS.md`, with its fields."""

    def __call__(self, name: str, /, **fields: object) -> None: ...


class ClockComparison(Protocol):
    """Compares this host's clock with the broker's; a report carries its last result."""

    market_open: bool | None
    next_open_ns: int
    next_close_ns: int

    async def measure(self) -> None:
        """Read the broker's clock once and judge the difference. Raises BrokerError.

        It may be repeated: each call replaces the last result.
        """


class Known(msgspec.Struct, frozen=True):
    """What the recovered state knows of the market. `session_date` "" is a fresh journal."""

    session_date: str
    ended: bool
    last_bar_ns: int  # start of the newest bar it saw, in any session; 0 for none
    newest: dict[str, int] = {}  # the same by symbol, where a desk has several; empty where it has one

    def last_of(self, symbol: str) -> int:
        """Return the start of the newest bar of `symbol` that the state saw, 0 for none."""
        return self.newest.get(symbol, 0) if self.newest else self.last_bar_ns


def open_session(known_bars: Known, calendar: SessionCalendar, now_ns: int) -> Session | None:
    """Return the session that the state has open after its hours: it must be finished first."""
    if not known_bars.session_date or known_bars.ended:
        return None
    sessions = (s for s in calendar.sessions if s.date == known_bars.session_date and s.close_ns <= now_ns)
    return next(sessions, None)


def sessions_before(known_bars: Known, calendar: SessionCalendar, now_ns: int) -> list[Session]:
    """Return the sessions before now that the state lacks, newest first."""
    past = [s for s in calendar.sessions if s.close_ns <= now_ns and s.date > known_bars.session_date]
    return past[::-1]


@dataclass(frozen=True, slots=True)
class FeedDesk:
    """The desk as its feed sees it. `settled` returns when all queued events have been stepped."""

    strategy: AnyStrategy
    calendar: SessionCalendar
    cache_dir: Path  # for past bars; it may not exist yet
    state: Callable[[], State[Any]]
    settled: Callable[[], Awaitable[None]]

    def as_traded(self, session: Session) -> Session:
        """Return a calendar's session with its present close."""
        return as_traded(session, self.state().session.session)

    def is_closed(self) -> bool:
        """Return whether the broker's market is closed in a session of the calendar."""
        return self.state().broker.closed


@dataclass(frozen=True, slots=True)
class TradingDesk:
    """The desk as the trading side sees it. Its events go to this `put`, not to the connection's.

    `panicked`, on any thread: a panic runs that the desk has not stepped yet, as its loop or its disk hung. `waits`:
    bars changed as by a split of what is held, and no report explains it yet.
    """

    identity: Identity
    broker: Callable[[], BrokerState]
    put: Put
    clocks: ClockComparison
    panicked: Callable[[], bool]
    waits: Callable[[], bool]


# --- the three sides ----------------------------------------------------------------------------------------------


class MarketFeed(Protocol):
    """The market of one desk, as events: sessions, bars, quotes, contracts. It decides nothing about trading.

    Order: a session's bars follow its `SessionScheduled`; those of each symbol ascend without holes; `SessionEnded`
    follows the last one. For a desk that decides at each bar, each `BarClosed` is followed at once by the
    `QuotesReceived` that closes it. Which bars make a minute of several symbols is decided by the step.
    For a desk that decides once a session, every bar that a decision may use comes before its `RebalanceDue`.
    Idempotency: no event is emitted twice, and no bar that the state already has.
    """

    close_grace_s: int
    """Seconds of the clock after a session's close when its last bars are final and `end` is due."""

    async def catch_up(self, known_bars: Known, *, exposed: bool = False) -> Session:
        """Emit what the recovered state lacks, then the running session so far, or the next one's schedule.

        Called once, before all others. Returns the last scheduled session. It retries until the broker answers; where
        the desk is `exposed` (holds or orders something) it must return in time for the open without an answer, and
        emits a halt for the hole. Raises CalendarError.
        """

    async def run(self) -> None:
        """Stream until cancelled, and reconnect for ever with a back-off. Raises only on a bug."""

    async def schedule(self, session: Session) -> None:
        """Warm up: emit the session's schedule once, and what a desk needs before its open.

        Due some minutes before each open. It may return late; called again for the same session it does nothing.
        """

    async def decide(self, session: Session) -> None:
        """Emit `RebalanceDue` once for the session, in time and after all that it needs; an alarm where that fails.

        Called only for a desk that decides once a session.
        """

    async def end(self, session: Session) -> None:
        """Emit `SessionEnded` once, after the session's last bars if available. Due `close_grace_s` late."""

    def watch(self, symbols: tuple[str, ...]) -> None:
        """Quote exactly these option contracts from now on, plus the attended ones. Each call replaces the last."""

    def attend(self, symbols: frozenset[str]) -> None:
        """Quote these held or worked symbols between bars too. Called after every step: the same set is free."""


class OrderGateway(Protocol):
    """The account's orders: executes effects, and emits their results. The only side that sends orders.

    Promises: no order is sent without an effect. A release of one `SubmitOrder` sends that order at most once, and
    never again on a timeout: an unknown result is emitted as `OrderUnknown`, and the step decides. A client order id is
    used as it is, so the broker itself refuses a repeated one. Order: results of one name's submissions, cancels and
    look-ups are emitted in the order in which the broker decided them; no report is older than lost news.
    """

    async def release(self, effects: Sequence[AnyEffect]) -> None:
        """Execute the `SubmitOrder` and `CancelOrder` of a durable step, in their order; returns when queued.

        `LiftFence` too, of a broker that a guard can fence (`GuardedAccount`): then a report is due.

        Each submission ends in one of OrderAccepted, OrderFound, OrderRejected, OrderExpired (it was not sent) or
        OrderUnknown. A cancel is a request: its result comes as news of its order, or CancelRejected. An opening order
        is not sent after its `valid_until_ns`; an exit waits for its turn without limit. At its turn none is sent while
        the desk is `panicked`: a panic that found the account flat would not see it.
        """

    def stepped(self, event: Event, effects: Sequence[AnyEffect]) -> None:
        """Execute the `LookUpOrder` and `AskBroker` of a step: they change nothing there and need no durability.

        A look-up ends in OrderFound, or in OrderMissing after the broker denied the name several times; it is repeated
        until the broker answers. One look-up for a name at a time: a repeated one is the same. Once the step has taken
        its OrderMissing, the name may be looked up again. A look-up with an `order_id` says whose that order is: all
        further news of it bears the name.

        Called once for each step, in their order; a repeated event changes nothing.
        """

    def follow(self, order_ids: Mapping[str, str], closings: Mapping[str, str]) -> None:
        """Add orders of earlier runs, client order id -> the broker's id. Called once, before `run`.

        `order_ids` may be open; `closings` were made by `SubmitOrder.closing`, open or not.
        """

    async def run(self) -> None:
        """Emit news of orders, reports, and `BrokerLost` where news may be missing, until cancelled.

        A `BrokerReported` follows each connect, comes regularly and on request. Raises only on a bug.
        """


@dataclass(frozen=True, slots=True)
class AccountSummary:
    """The account for an operator. Figures are the broker's own text."""

    number: str
    blocked: str  # why it may not trade, "" when it may
    cash: str
    equity: str
    options_level: int | None  # 2 buys calls and puts; None where the broker has none


@dataclass(frozen=True, slots=True)
class ShortSales:
    """Whether the broker refuses short sales of shares, by which setting, and the setting's value."""

    refused: bool
    setting: str
    cure: str


@dataclass(frozen=True, slots=True)
class LedgerStream:
    """Whether a stream of the ledger's lines answers these keys: `problem` says why not, "" if it does.

    `lines` is the number of its lines in a time, `same` the number with the ledger's own ids.
    """

    problem: str
    lines: int
    same: int


@dataclass(frozen=True, slots=True)
class BrokerClock:
    """The broker's time, and its market. `next_open_ns` and `next_close_ns` are 0 when unknown."""

    now_ns: int
    is_open: bool | None
    next_open_ns: int
    next_close_ns: int = 0


@dataclass(frozen=True, slots=True)
class BulkResult:
    """Result of a request about all orders or positions: their number, and a line for each refusal."""

    count: int
    refused: tuple[str, ...]


class Admin(Protocol):
    """The account outside of a desk: `--check`, the clock, and the panic. Every method raises BrokerError.

    Time: each request of a method ends in a bounded time, with its answer or a BrokerError, also where the broker never
    answers. No method repeats a request. Reads may be repeated. The two that send need no journal, and are repeated
    until `left` is empty.
    """

    async def account(self) -> AccountSummary:
        """Return the account of these keys. Raises BrokerRefused for keys of another service."""

    async def short_sales(self) -> ShortSales:
        """Return whether the account may sell short."""

    async def ledger_stream(self, since_ns: int, until_ns: int) -> LedgerStream | None:
        """Return whether the stream of the ledger's lines answers, asked for the time between; None without one."""

    async def clock(self) -> BrokerClock:
        """Return the broker's clock at a time between the call and the return of this method."""

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Decimal]:
        """Return symbol -> newest bid (0 without one); symbols without a quote are absent."""

    async def feeds(self, symbol: str, *, options: bool) -> tuple[str, str]:
        """Return the best feeds that the account's data plan allows: `feed.name` and `feed.options`, by one read each.

        Without `options` the second is not asked for. Raises BrokerRefused where the plan allows none.
        """

    async def bars(self, symbol: str, start_ns: int, end_ns: int) -> int:
        """Return the number of minute bars of the configured feed that begin between the two times."""

    async def day_bars(self, symbols: Sequence[str], start_ns: int, end_ns: int) -> Mapping[str, int]:
        """Return symbol -> number of daily bars that begin between the two times; symbols without one are absent."""

    async def contracts(
        self, symbol: str, dates: tuple[str, str], strikes: tuple[Decimal, Decimal]
    ) -> Mapping[str, Decimal]:
        """Return contract -> newest ask in USD (0 without one) between two expiries and two strikes, both included."""

    async def actions(self, symbols: Collection[str], first_date: str, last_date: str) -> tuple[Announcement, ...]:
        """Return what is announced of these shares with an ex-date between two New York days, both included.

        Asked in a dry run of shares alone. An action that cannot be read has its kind, and no figures.
        """

    async def cancel_all(self) -> BulkResult:
        """Request a cancel of every order of the account."""

    async def close_all(self) -> BulkResult:
        """Request to close every position at the market, cancelling orders in its way."""

    async def left(self) -> tuple[str, ...]:
        """Return a line for each open order and position; empty when the account is flat."""


@dataclass(frozen=True, slots=True)
class AccountLook:
    """The account as a guard sees it: `orders` are the open ones, those since a time, and those looked up by name.

    `positions` were read after the orders.
    """

    number: str
    broker_ns: int  # the time of the look, by the broker's clock
    ahead_s: float  # by which the broker's clock is ahead of this host's
    market_open: bool | None
    fenced: bool  # a setting of the account refuses new orders
    positions: tuple[BrokerPosition, ...]
    orders: tuple[BrokerOrder, ...]
    changed: frozenset[str] | None  # symbols with a split, spin-off or merger on the days asked for; None: not known
    next_open_ns: int = 0  # 0: not known


class GuardedAccount(Protocol):
    """The account for `rltrader-guard`, of a broker in the registry's `GUARDS`. Every method raises BrokerError.

    Each request ends in a bounded time, and is never repeated here.
    """

    async def look(self, since_ns: int, names: Collection[str], days: Sequence[str] | None) -> AccountLook:
        """Look at the account; `days` are New York dates whose corporate actions are asked for, None: not known."""

    async def rest(self, stop: SubmitOrder) -> None:
        """Send a stop. Raises BrokerRefused; any other error leaves open whether it is there."""

    async def cancel(self, order_id: str) -> None:
        """Request a cancel."""

    async def fence(self, *, on: bool) -> None:
        """Have the account take no new orders, or take them again."""

    @property
    def admin(self) -> Admin:
        """Return the two requests of a panic, and the checks before a start."""

    async def close(self) -> None:
        """End threads and connections."""


class Connection(Protocol):
    """One desk's connection to a broker. Making one sends and opens nothing."""

    start_wait_s: float
    """How long a start waits for a first answer before it goes on without."""
    clock_skew_max_s: float
    """How far the clocks may differ before an alarm."""

    @property
    def admin(self) -> Admin:
        """Return the account outside of the desk."""

    def market_feed(self, desk: FeedDesk) -> MarketFeed:
        """Return the desk's feed; called once. Raises ValueError for a strategy that the feed cannot serve."""

    def trading(self, desk: TradingDesk) -> OrderGateway:
        """Return the desk's trading side; called once, and never by a dry run."""

    async def close(self) -> None:
        """End threads and connections; waiting requests are not sent. A repeated call does nothing."""


class Broker(Protocol):
    """An entry of `registry.py`: access to this broker under the given settings. Nothing here sends."""

    def service(self, settings: DeskSettings) -> str:
        """Return the address that takes the orders: with the key it names the account in locks and messages."""

    def services(self, settings: DeskSettings) -> tuple[str, ...]:
        """Return all addresses, for `--check`; simulated time is allowed only on this machine."""

    def connect(
        self, settings: DeskSettings, keys: Credentials, clock: Clock, put: Put, log: EventLogger
    ) -> Connection:
        """Return a connection for one desk; `put` takes the feed's events."""


def alone(broker: Broker, settings: DeskSettings, keys: Credentials, clock: Clock) -> Connection:
    """Return a connection for its admin side only: its events and log lines are dropped."""
    return broker.connect(settings, keys, clock, _ignore, _log_nothing)


def _ignore(_event: Event) -> None:
    """Drop an event."""


def _log_nothing(_name: str, /, **_fields: object) -> None:
    """Log nothing: the caller prints errors."""
