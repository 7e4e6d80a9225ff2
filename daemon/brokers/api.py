"""What the daemon asks of a broker: a market feed, trading, and an admin side, behind one connection.

A broker is a folder beside this file that implements these protocols, and one line of `registry.py`; `daemon/app` and
`daemon/cli` know nothing else of it. `docs/ADD_A_BROKER.md` is the guide.

For every method: it runs on the event loop and never blocks it. Times are nanoseconds UTC of the desk's clock, money
is USD, durations are real seconds. What an outage, a limit or a bad answer means is decided by the step, from events;
the words in those events are those of `daemon.core.orders` (orders) and `daemon.core.broker.ledger` (ledger lines).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any, Protocol

import msgspec

from daemon.config.load import Credentials, Settings
from daemon.core.effects import AnyEffect
from daemon.core.events import Event
from daemon.core.state import BrokerState, Identity, State
from daemon.host.time.calendar import SessionCalendar
from daemon.host.time.clock import Clock
from strategies.kit.contract import Session, Strategy

# --- what can go wrong --------------------------------------------------------------------------------------------


class BrokerError(Exception):
    """The broker did not do, or did not confirm, what it was asked. The text names no key and no secret."""


class BrokerRefused(BrokerError):
    """A definite no. `of_keys` is true where the keys themselves are refused."""

    of_keys = False


class BrokerUnreadable(BrokerError, ValueError):
    """An answer came, and what it says cannot be read."""


# --- what a desk hands over ---------------------------------------------------------------------------------------

Put = Callable[[Event], None]
"""Puts an event into the desk's intake: at once, in the order of the calls. Raises IntakeFull, which ends the desk."""


class LogEvent(Protocol):
    """Logs a declared event of `docs/LOGS.md`, with its fields."""

    def __call__(self, name: str, /, **fields: object) -> None: ...


class ClockComparison(Protocol):
    """Compares this host's clock with the broker's; a report brings what it last found."""

    market_open: bool | None
    next_open_ns: int

    async def measure(self) -> None:
        """Ask the broker's clock once and judge the difference. Raises BrokerError."""


class Known(msgspec.Struct, frozen=True):
    """What the recovered state knows of the market. `session_date` "" is a fresh journal."""

    session_date: str
    ended: bool
    last_bar_ns: int  # start of the newest bar it saw, of whatever session; 0 for none


@dataclass(frozen=True, slots=True)
class FeedDesk:
    """What a feed may look at of its desk. `settled` returns when all that was put has been stepped."""

    strategy: Strategy
    calendar: SessionCalendar
    cache_dir: Path  # for bars of the past; it may not exist yet
    state: Callable[[], State[Any]]
    settled: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class TradingDesk:
    """What the trading side may look at of its desk. Its events go out by this `put`, not by the connection's."""

    identity: Identity
    broker: Callable[[], BrokerState]
    put: Put
    clocks: ClockComparison


# --- the three sides ----------------------------------------------------------------------------------------------


class MarketFeed(Protocol):
    """The market of one desk, as events: sessions, bars, quotes, contracts. It decides nothing about trading.

    Order: a session's bars follow its `SessionScheduled` and ascend without holes; `SessionEnded` follows the last one.
    For a desk that decides at each bar, each `BarClosed` is followed at once by the `QuotesReceived` that closes it.
    For a desk that decides once a session, every bar that a decision may use comes before its `RebalanceDue`.
    Idempotency: no event is put twice; a bar that the state has already is never put again.
    """

    close_grace_s: int
    """Seconds of the clock after a session's close when its last bars are final and `end` is due."""

    async def catch_up(self, known: Known, *, exposed: bool = False) -> Session:
        """Put what the recovered state lacks, then the running session so far, or the next one's schedule.

        Called once, before all others. Returns the session that was put last. It waits for the broker until it answers;
        where the desk is `exposed` (holds or orders something) it must come back in time for the open without it, and
        puts a halt for the hole. Raises CalendarError.
        """

    async def run(self) -> None:
        """Stream until cancelled, and reconnect for ever with a back-off. Raises only what is a bug."""

    async def schedule(self, session: Session) -> None:
        """Warm up: put the session's schedule, unless it was put, and what a desk needs before its open.

        Due some minutes before each open. It may return late; called again for the same session it does nothing.
        """

    async def decide(self, session: Session) -> None:
        """Put `RebalanceDue` once for the session, in time and after all that it needs; an alarm where that fails.

        Called only for a desk that decides once a session.
        """

    async def end(self, session: Session) -> None:
        """Put `SessionEnded` once, after the session's last bars where they can be had. Due `close_grace_s` late."""

    def watch(self, symbols: tuple[str, ...]) -> None:
        """Quote exactly these option contracts from now on, beside what is attended. Each call replaces the last."""

    def attend(self, symbols: frozenset[str]) -> None:
        """These are held or worked on: quote them between bars too. Called after every step: the same set is free."""


class Trading(Protocol):
    """The account's orders: carries out effects, and puts what became of them. The only side that sends orders.

    Promises: no order is sent by its own will. A release of one `SubmitOrder` sends that order at most once, and never
    a second time on a timeout: what is not known is put as `OrderUnknown`, and the step decides. A client order id is
    used as it is, so the broker itself refuses a repeated one. Order: what one name's submissions, cancels and look-ups
    come to is put in the order in which the broker decided it; no report is put that is older than news that was lost.
    """

    async def release(self, effects: Sequence[AnyEffect]) -> None:
        """Carry out the `SubmitOrder` and `CancelOrder` of a durable step, in their order; returns when queued.

        Each submission ends in one of OrderAccepted, OrderFound, OrderRejected, OrderExpired (it was not sent) or
        OrderUnknown. A cancel is a request: the news of its order tells what came of it, or CancelRejected. An order
        that opens is not sent after its `valid_until_ns`; one that leaves a position waits for its turn for ever.
        """

    def ask(self, effects: Sequence[AnyEffect]) -> None:
        """Carry out the `LookUpOrder` and `AskBroker` of a step: they change nothing there and wait for no disk.

        A look-up ends in OrderFound, or in OrderMissing after the broker denied the name several times; it is repeated
        until the broker answers. One look-up for a name at a time: a repeated one is the same.
        """

    def stepped(self, event: Event) -> None:
        """A step has taken this event: a name that was called missing may be looked up again."""

    def follow(self, order_ids: Mapping[str, str], closings: Mapping[str, str]) -> None:
        """Orders of earlier runs, client order id -> the broker's id: those that may be open, and those that
        `SubmitOrder.closing` made, open or not. Called once, before `run`.
        """

    async def run(self) -> None:
        """Put news of orders as it comes, a `BrokerReported` after each connect, regularly and when asked, and
        `BrokerLost` where news may be missing. Runs until cancelled; raises only what is a bug.
        """


@dataclass(frozen=True, slots=True)
class Account:
    """The account as an operator reads it. Figures are the broker's own text."""

    number: str
    blocked: str  # why it may not trade, "" when it may
    cash: str
    equity: str
    options_level: int | None  # 2 buys calls and puts; None where the broker has none


@dataclass(frozen=True, slots=True)
class ShortSales:
    """Whether the broker itself refuses a sale of shares that are not there, by which setting, and how it is set."""

    refused: bool
    setting: str
    cure: str


@dataclass(frozen=True, slots=True)
class BrokerClock:
    """The broker's time, and its market. `next_open_ns` is 0 where it does not tell."""

    now_ns: int
    is_open: bool | None
    next_open_ns: int


@dataclass(frozen=True, slots=True)
class Asked:
    """What became of a request about everything: how many orders or positions, and the refusals, a line each."""

    count: int
    refused: tuple[str, ...]


class Admin(Protocol):
    """The account from outside of a desk: `--check`, the clock, and the panic. Every method raises BrokerError.

    Reads may be repeated at will. The two that send need no journal, and are repeated until `left` is empty.
    """

    async def account(self) -> Account:
        """The account of these keys. Raises BrokerRefused for keys that are not this service's."""

    async def short_sales(self) -> ShortSales:
        """Whether the account may sell short."""

    async def clock(self) -> BrokerClock:
        """The broker's clock now: between the call and the return of this method."""

    async def quotes(self, symbols: Sequence[str]) -> Mapping[str, Decimal]:
        """Symbol -> the newest bid (0 where it has none); symbols without a quote are absent."""

    async def bars(self, symbol: str, start_ns: int, end_ns: int) -> int:
        """How many minute bars of the configured feed begin between the two times."""

    async def day_bars(self, symbols: Sequence[str], start_ns: int, end_ns: int) -> Mapping[str, int]:
        """Symbol -> how many daily bars begin between the two times; symbols without one are absent."""

    async def contracts(self, symbol: str, dates: tuple[str, str], strikes: tuple[Decimal, Decimal]) -> int:
        """How many option contracts with a quote expire and strike between the two, both included."""

    async def cancel_all(self) -> Asked:
        """Ask for a cancel of every order of the account."""

    async def close_all(self) -> Asked:
        """Ask for every position of the account to be closed at the market, orders in its way cancelled."""

    async def left(self) -> tuple[str, ...]:
        """What is open still, a line for each order and position; empty when the account is flat."""


class Connection(Protocol):
    """One desk's way to a broker. Making one asks, sends and opens nothing."""

    start_wait_s: float
    """How long a start waits for a first answer before it goes on without."""
    clock_skew_max_s: float
    """How far the clocks may differ before an alarm."""

    @property
    def admin(self) -> Admin:
        """The account from outside of the desk."""

    def market_feed(self, desk: FeedDesk) -> MarketFeed:
        """The desk's feed; asked for once. Raises ValueError for a strategy that this broker's feed cannot serve."""

    def trading(self, desk: TradingDesk) -> Trading:
        """The desk's trading side; asked for once, and never by a dry run."""

    async def close(self) -> None:
        """End threads and connections; what waits for its turn is not sent."""


class Broker(Protocol):
    """What `registry.py` names: how this broker is reached under the given settings. Nothing here asks or sends."""

    def service(self, settings: Settings) -> str:
        """The address that takes the orders: with the key it names the account in locks and messages."""

    def services(self, settings: Settings) -> tuple[str, ...]:
        """All addresses, as `--check` shows them; simulated time is only for those of this machine."""

    def connect(self, settings: Settings, keys: Credentials, clock: Clock, put: Put, log: LogEvent) -> Connection:
        """A connection for one desk; `put` takes the feed's events."""


def alone(broker: Broker, settings: Settings, keys: Credentials, clock: Clock) -> Connection:
    """A connection for its admin side alone: no desk takes its events, and nothing is logged."""
    return broker.connect(settings, keys, clock, _ignore, _unlogged)


def _ignore(_event: Event) -> None:
    """Take an event that no desk waits for."""


def _unlogged(_name: str, /, **_fields: object) -> None:
    """Log nothing: the caller prints what went wrong."""
