"""Everything that can happen, in the past tense. Frozen, JSON-encodable, times in integer nanoseconds UTC.

An event is journaled before it is acted on. Events carry no NaN and no infinity. `STARTUP_EVENTS` differ between
an undisturbed and a restarted run and therefore stay outside of the journal's hash chain; all others are chained.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec

from daemon.core.limits import Trading
from strategies.kit.contract import Bar, Session


class Event(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Base of all events: `time_ns` is when it happened in market time."""

    time_ns: int


# --- start-up (outside of the hash chain) -------------------------------------------------------------------------


class RunStarted(Event, frozen=True, tag=True):
    """A process took over this journal. `trading` holds from here on; `code` is the digest of the deciding code."""

    mode: str
    account: str
    strategy: str
    epoch: str
    code: str
    feed: str
    trading: Trading
    account_number: str = ""  # as configured; "" where it is not
    origins: dict[str, tuple[str, ...]] = {}  # source -> dotted keys of `trading` that it gave; others are defaults
    libraries: str = ""  # versions of those that the deciding code computes with; "" where they were not noted


class ModelVerified(Event, frozen=True, tag=True):
    """The model store loaded a model whose hash, digest and golden outputs are right."""

    version: str
    digest: str
    promoted: bool
    feed: str  # the feed whose bars it was trained on


class ModelRefused(Event, frozen=True, tag=True):
    reason: str


class BrokerPosition(msgspec.Struct, frozen=True):
    symbol: str
    quantity: Decimal  # contracts or shares, negative when short
    average_price: Decimal  # USD for one share
    available: Decimal | None = None  # not held back for working orders; None where the broker does not say


class BrokerOrder(msgspec.Struct, frozen=True):
    """An order as the broker describes it. `status` is the broker's word; `average_price` None before a fill."""

    client_order_id: str
    order_id: str
    symbol: str
    side: int  # +1 buy, -1 sell
    quantity: Decimal
    limit_price: Decimal | None
    intent: str  # buy_to_open, ...; "" where the broker does not say
    status: str
    filled: Decimal
    average_price: Decimal | None  # USD a share
    submitted_ns: int
    replaced_by: str = ""


class Activity(msgspec.Struct, frozen=True):
    """A line of the broker's ledger that is no fill. `kind` is its type, `amount` the change of cash in USD."""

    id: str
    kind: str
    symbol: str
    quantity: Decimal  # signed change of contracts or shares, 0 for cash alone
    price: Decimal | None
    amount: Decimal
    status: str  # executed, correct, canceled, pending, or ""
    time_ns: int


class BrokerSnapshot(Event, frozen=True, tag=True):
    """What the broker says it holds: the answer to start-up's question, reconciled by the step."""

    cash: Decimal
    positions: tuple[BrokerPosition, ...]
    open_orders: tuple[str, ...]  # client order ids


# --- the market ---------------------------------------------------------------------------------------------------


class SessionScheduled(Event, frozen=True, tag=True):
    """The calendar's word on the session that comes or runs, and on those after it (for expiries)."""

    session: Session
    upcoming: tuple[Session, ...]
    previous: tuple[Session, ...] = ()


class Contract(msgspec.Struct, frozen=True, gc=False):
    """One listed option. `symbol` is the OCC symbol, `expiry` the New York date, `right` +1 call, -1 put."""

    symbol: str
    expiry: str
    right: int
    strike: Decimal
    open_interest: int


class ContractsListed(Event, frozen=True, tag=True):
    """The option chain near the money for one session. `volatility` is the chain's, annualised; None when unknown."""

    session_date: str
    contracts: tuple[Contract, ...]
    volatility: float | None


class BarClosed(Event, frozen=True, tag=True):
    """A bar closed; `time_ns` is when we knew it (in replay: its end)."""

    bar: Bar


class BarCorrected(Event, frozen=True, tag=True):
    """A late correction of an earlier bar with the same symbol and start."""

    bar: Bar


class BarRejected(Event, frozen=True, tag=True):
    """A bar that the intake refused. `reason` is one of the intake's names, `detail` the offending values as text."""

    symbol: str
    start_ns: int
    reason: str
    detail: str


class Quote(msgspec.Struct, frozen=True, gc=False):
    """The best bid and ask of one option in USD a share; `bid` 0 means no bid, `ask` 0 no offer.

    `low` and `high` are the extreme mids since the last quote of this contract (a bar's range in replay, the
    conflation interval live), so that a stop touched in between is seen; they equal the mid where unknown.
    """

    symbol: str
    bid: Decimal
    ask: Decimal
    low: Decimal
    high: Decimal
    quoted_ns: int


class QuotesReceived(Event, frozen=True, tag=True):
    """Conflated quotes. `closes_bar_ns` is the start of the bar whose close they describe, 0 for quotes in between.

    Every bar is followed by exactly one `QuotesReceived` that closes it (with the quotes there are, maybe none);
    the strategy observes the bar when that arrives.
    """

    closes_bar_ns: int
    quotes: tuple[Quote, ...]


class Price(msgspec.Struct, frozen=True, gc=False):
    """A price of a share in USD, exact."""

    symbol: str
    price: Decimal


class PricesPrinted(Event, frozen=True, tag=True):
    """Shares traded at these prices; `opening` for the opening auction. A replay's market fills orders at them."""

    date: str
    opening: bool
    prices: tuple[Price, ...]


class RebalanceDue(Event, frozen=True, tag=True):
    """A daily desk decides now; all that it may know has been told before. The first one of a `date` counts.

    `running` are the running session's bars so far where the desk decides before the close, none where it decides on
    complete bars before the open.
    """

    date: str  # of the session in which the basket is traded
    running: tuple[Bar, ...] = ()


class HistoryAdjusted(Event, frozen=True, tag=True):
    """A split or dividend: all daily bars of `symbol`, adjusted anew, replace those that are known. Oldest first."""

    symbol: str
    bars: tuple[Bar, ...]


class ClockTicked(Event, frozen=True, tag=True):
    """Time passed; every rule that waits for a time is looked at."""


class SessionEnded(Event, frozen=True, tag=True):
    """The regular session closed; day orders lapse, expiring contracts settle."""

    date: str


# --- the policy ---------------------------------------------------------------------------------------------------


class PolicyAnswered(Event, frozen=True, tag=True):
    decision: int
    logits: tuple[float, ...]
    hidden: bytes
    model: str


class PolicyFailed(Event, frozen=True, tag=True):
    """The policy gave no usable answer: an exception, a NaN, a wrong shape."""

    decision: int
    reason: str


# --- the broker ---------------------------------------------------------------------------------------------------


class OrderAccepted(Event, frozen=True, tag=True):
    client_order_id: str
    order_id: str = ""  # the broker's own name for it, "" where it has none


class OrderRejected(Event, frozen=True, tag=True):
    client_order_id: str
    reason: str


class OrderFilled(Event, frozen=True, tag=True):
    """A fill, whole or partial. Its identity is (client order id, `correction`, `cumulative_quantity`).

    `cumulative_quantity` counts from the order's start, `cumulative_cost` = sum of price x quantity (USD a share
    times contracts), `cumulative_fees` in USD; quantities are set from these, never added.
    """

    client_order_id: str
    symbol: str
    side: int  # +1 bought, -1 sold
    price: Decimal  # of this execution
    filled_ns: int  # when it traded (in replay the bar's open or its end); `time_ns` is when we knew
    cumulative_quantity: int
    cumulative_cost: Decimal
    cumulative_fees: Decimal
    quantity: int  # of this execution
    correction: int = 0


class OrderCanceled(Event, frozen=True, tag=True):
    client_order_id: str


class OrderExpired(Event, frozen=True, tag=True):
    client_order_id: str


class CancelRejected(Event, frozen=True, tag=True):
    client_order_id: str
    reason: str


class OrderUnknown(Event, frozen=True, tag=True):
    """The broker gave no answer in time: the order may or may not live, and counts as exposure until settled."""

    client_order_id: str


class OrderFound(Event, frozen=True, tag=True):
    """What the broker says an order is: the answer to a look-up, or news about an order that is not ours."""

    order: BrokerOrder


class OrderMissing(Event, frozen=True, tag=True):
    """The broker, asked several times, knows no order of this name."""

    client_order_id: str


class TradeCorrected(Event, frozen=True, tag=True):
    """The broker amended or took back an execution. The totals are what stands after it; `execution_id` names it."""

    client_order_id: str
    execution_id: str
    cumulative_quantity: int
    cumulative_cost: Decimal
    reason: str  # trade_bust or trade_correct


class BrokerLost(Event, frozen=True, tag=True):
    """Order news may be missing from here on: a stream ended, or the broker cannot be asked."""

    detail: str


class Funds(msgspec.Struct, frozen=True, gc=False):
    """What the account may spend and carry by the broker, in USD; None where it does not say."""

    multiplier: Decimal | None = None  # of the buying power: 1 is a cash account
    buying_power: Decimal | None = None
    non_marginable: Decimal | None = None  # buying power without credit
    options: Decimal | None = None  # buying power for options
    equity: Decimal | None = None
    maintenance: Decimal | None = None  # margin that what is held asks for


class BrokerReported(Event, frozen=True, tag=True):
    """The broker's whole word at `asked_ns` and a little later: reconciled by the step.

    `orders` are the open ones and those that ended since the last report, `fills` and `activities` what the broker's
    ledger holds beyond the last report (all of the day after a start); both may repeat what is known.
    """

    asked_ns: int
    account: str  # the account's number
    cash: Decimal
    blocked: str  # why the account may not trade, "" when it may
    positions: tuple[BrokerPosition, ...]
    open_orders: tuple[BrokerOrder, ...]
    ended_orders: tuple[BrokerOrder, ...]
    fills: tuple[OrderFilled, ...]
    activities: tuple[Activity, ...]
    funds: Funds | None = None
    market_open: bool | None = None  # by the broker's clock; None where it was not asked
    next_open_ns: int = 0  # by the broker's clock, 0 where it was not asked


class ContractExpired(Event, frozen=True, tag=True):
    """An option held at expiry settled. `shares` is the signed share change of an exercise, 0 when worthless."""

    symbol: str
    quantity: int
    underlying: str
    shares: int
    strike: Decimal


class CashTransferred(Event, frozen=True, tag=True):
    """Money came (positive) or went by transfer: no gain, no loss."""

    amount: Decimal


# --- the operator and the machine ---------------------------------------------------------------------------------


class HaltRequested(Event, frozen=True, tag=True):
    reason: str  # an alarm name of docs/OPERATIONS.md
    detail: str
    who: str


class ResumeRequested(Event, frozen=True, tag=True):
    """Ends a halt or a pause. `reason` must not be empty."""

    reason: str
    who: str


class PauseRequested(Event, frozen=True, tag=True):
    reason: str
    who: str


class FlattenRequested(Event, frozen=True, tag=True):
    reason: str
    who: str


class AcceptBrokerRequested(Event, frozen=True, tag=True):
    """The book shall take over what the broker's next report says: positions, cash, no order of ours. Halts."""

    reason: str
    who: str


class PanicNoticed(Event, frozen=True, tag=True):
    """Somebody ran the panic, which flattens the account without this journal: stand down, halted."""

    detail: str


class StopRequested(Event, frozen=True, tag=True):
    """The daemon shall end cleanly: no new risk, working entries are cancelled, positions kept or left."""

    reason: str
    flatten: bool


class ClockReset(Event, frozen=True, tag=True):
    """The desk's time is led back to `time_ns`, which the broker's clock verified: the one event that can do so."""

    reason: str
    who: str


class ReloadRequested(Event, frozen=True, tag=True):
    """Look at the model store now. What comes of it is `ModelPromoted`, `CandidateRefused` or nothing."""

    reason: str
    who: str


class StatusRequested(Event, frozen=True, tag=True):
    """Somebody asked over the network what the desk is; it changes nothing."""

    reason: str
    who: str


class CommandRefused(Event, frozen=True, tag=True):
    """A command came that is not signed, not in time, repeated or unreadable. It was not carried out."""

    channel: str  # where it came from
    reason: str


class ModelPromoted(Event, frozen=True, tag=True):
    """A verified version answers from here on, in the place of `previous`. Promoted or not says the model itself."""

    version: str
    digest: str
    promoted: bool
    feed: str
    previous: str


class CandidateRefused(Event, frozen=True, tag=True):
    """A version that was to run, or to answer beside, failed a check; what ran before goes on."""

    version: str
    reason: str


class ShadowAnswered(Event, frozen=True, tag=True):
    """What a candidate answered to the question of `decision`, beside the live model. Nothing is ordered for it."""

    decision: int
    logits: tuple[float, ...]
    hidden: bytes
    model: str


class ShadowFailed(Event, frozen=True, tag=True):
    """A candidate gave no usable answer to the question of `decision`."""

    decision: int
    reason: str
    model: str


class CodeChanged(Event, frozen=True, tag=True):
    """This run's code took over events that it could not prove: other code or libraries wrote them, it decides
    otherwise, or the journal is damaged. They were taken as they happened, damaged ones left out; what left the process
    then is what the desk sent.
    """

    former: str  # digest of the code that wrote them
    events: int  # taken over
    differences: int  # among them where this code would have done something else
    detail: str
    decision: int  # the highest number of a decision in the journal: none is given again
    damaged: bool = False  # rows of the journal were, and were left out


class TroubleNoticed(Event, frozen=True, tag=True):
    """The shell noticed something that a person must know. `name` has a heading in docs/OPERATIONS.md."""

    name: str
    detail: str


AnyEvent = (
    RunStarted
    | ModelVerified
    | ModelRefused
    | BrokerSnapshot
    | SessionScheduled
    | ContractsListed
    | BarClosed
    | BarCorrected
    | BarRejected
    | QuotesReceived
    | PricesPrinted
    | RebalanceDue
    | HistoryAdjusted
    | ClockTicked
    | SessionEnded
    | PolicyAnswered
    | PolicyFailed
    | OrderAccepted
    | OrderRejected
    | OrderFilled
    | OrderCanceled
    | OrderExpired
    | CancelRejected
    | OrderUnknown
    | OrderFound
    | OrderMissing
    | TradeCorrected
    | BrokerLost
    | BrokerReported
    | ContractExpired
    | CashTransferred
    | HaltRequested
    | ResumeRequested
    | PauseRequested
    | FlattenRequested
    | AcceptBrokerRequested
    | PanicNoticed
    | StopRequested
    | ClockReset
    | ReloadRequested
    | StatusRequested
    | CommandRefused
    | ModelPromoted
    | CandidateRefused
    | ShadowAnswered
    | ShadowFailed
    | CodeChanged
    | TroubleNoticed
)

STARTUP_EVENTS: tuple[type[Event], ...] = (RunStarted, ModelVerified, ModelRefused, BrokerSnapshot)
"""Depend on how often a run was restarted, so the hash chain and the event count leave them out."""

FEED_EVENTS: tuple[type[Event], ...] = (
    SessionScheduled,
    BarClosed,
    BarCorrected,
    BarRejected,
    PricesPrinted,
    RebalanceDue,
    HistoryAdjusted,
    ClockTicked,
    SessionEnded,
)
"""Come from the market-data source in its order; a replay resumes by skipping as many as the journal holds."""
