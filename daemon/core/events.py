"""Everything that can happen, in the past tense. Frozen, JSON-encodable, times in integer nanoseconds UTC.

An event is journaled before it is acted on. Events carry no NaN and no infinity. `STARTUP_EVENTS` differ between
an undisturbed and a restarted run and therefore stay outside of the journal's hash chain; all others are chained.
"""

from __future__ import annotations

from decimal import Decimal

import msgspec
from msgspec import UNSET, UnsetType

from daemon.core.limits import Trading
from strategies.kit.contract import Bar, Session
from strategies.kit.quantity import Quantity


class Event(msgspec.Struct, frozen=True, tag=True, gc=False):
    """Base of all events: `time_ns` is when it happened in market time."""

    time_ns: int


class SessionScheduled(Event, frozen=True, tag=True):
    """The running or next session, with those after it (for expiries)."""

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


class PartClosed(Event, frozen=True, tag=True):
    """A part of a longer bar closed on a tape of shorter ones: it moves the market; the strategy sees the whole bar.

    The `BarClosed` of the whole bar follows its last part. A live feed has quotes instead.
    """

    bar: Bar


class BarCorrected(Event, frozen=True, tag=True):
    """A late correction of an earlier bar with the same symbol and start."""

    bar: Bar


class BarRejected(Event, frozen=True, tag=True):
    """The intake refused a bar. `reason` is one of the intake's names, `detail` the offending values as text."""

    symbol: str
    start_ns: int
    reason: str
    detail: str


class TradingStatusChanged(Event, frozen=True, tag=True):
    """The exchange halted trading in a share, or resumed it. `reason` is in its own words."""

    symbol: str
    halted: bool
    reason: str


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
    """A price of a share in USD, as an exact decimal."""

    symbol: str
    price: Decimal


class PricesPrinted(Event, frozen=True, tag=True):
    """Shares traded at these prices; `opening` for the opening auction. A replay's market fills orders at them."""

    date: str
    opening: bool
    prices: tuple[Price, ...]


class RebalanceDue(Event, frozen=True, tag=True):
    """A daily desk decides now, after all events that it may know. Only the first one of a `date` counts.

    `running` has the running session's bars so far if the desk decides before the close, none if it decides on complete
    bars before the open.
    """

    date: str  # date of the session in which the basket is traded
    running: tuple[Bar, ...] = ()


class HistoryAdjusted(Event, frozen=True, tag=True):
    """A split or dividend: newly adjusted daily bars of `symbol`, oldest first, replace all known ones."""

    symbol: str
    bars: tuple[Bar, ...]


class SharesSplit(Event, frozen=True, tag=True):
    """From `from_ns`, a session's open, on `ratio` shares of `symbol` replace each one before it.

    It concerns the bars kept by a desk that decides at each bar: earlier bars are of the old shares. The book follows
    the broker's ledger. The event may be repeated, and come after bars of the new shares.
    """

    symbol: str
    ratio: float
    from_ns: int


SPLIT, DIVIDEND = "split", "dividend"  # kinds of announcements that a paper broker books; dividends in cash


class Announcement(msgspec.Struct, frozen=True):
    """A corporate action that the broker announces: `SPLIT`, `DIVIDEND`, or another kind in the broker's words.

    From `ex_date` (YYYY-MM-DD) on, `new` shares replace `old` ones, or holders at the close before it are paid `cash`
    USD a share on the day `paid`. `price` is the last one of an old share, USD, 0 if unknown.
    """

    symbol: str
    kind: str
    ex_date: str
    new: Decimal = Decimal(0)
    old: Decimal = Decimal(0)
    cash: Decimal = Decimal(0)
    paid: str = ""
    price: Decimal = Decimal(0)


def action_name(action: Announcement) -> str:
    """Return the name by which an announced action counts once: one share may pay two dividends on one day."""
    name = f"{action.ex_date} {action.kind} {action.symbol}"
    return f"{name} {action.cash}" if action.kind == DIVIDEND else name


class ActionsAnnounced(Event, frozen=True, tag=True):
    """What is announced of the shares that a dry run holds, with ex-dates up to the session's `date`.

    Its paper broker books splits and cash dividends by it. With a real broker there is none: its ledger reports them.
    """

    date: str
    actions: tuple[Announcement, ...]


class ClockTicked(Event, frozen=True, tag=True):
    """Time passed; every rule with a deadline is checked."""


class SessionEnded(Event, frozen=True, tag=True):
    """The regular session closed; day orders lapse, expiring contracts settle."""

    date: str


class PolicyAnswered(Event, frozen=True, tag=True, omit_defaults=True):
    """The raw answer. `heads` are the numbers of each of the spec's heads; a policy without heads journals none."""

    decision: int
    logits: tuple[float, ...]
    hidden: bytes
    model: str
    heads: dict[str, tuple[float, ...]] = msgspec.field(default_factory=dict)


class PolicyFailed(Event, frozen=True, tag=True):
    """The policy failed to answer: an exception, a NaN, a wrong shape."""

    decision: int
    reason: str


class RiskClaim(msgspec.Struct, frozen=True, gc=False):
    """A claim about risk that a version's manifest proves, by daily closes. Volatilities are annual: 0.1 is 10 %."""

    target: float
    low: float
    high: float
    window_sessions: int
    probability: float  # that the volatility of a window lies between `low` and `high`
    drawdown_max: float  # part of the highest close of the last `drawdown_sessions`
    drawdown_probability: float  # that no deeper drawdown comes within these sessions
    drawdown_sessions: int


class ModelPromoted(Event, frozen=True, tag=True):
    """A verified version is live from here on, replacing `previous`. The model file says whether it is promoted."""

    version: str
    digest: str
    promoted: bool
    feed: str
    previous: str
    claim: RiskClaim | UnsetType = UNSET  # unset without one that these rules keep


class ClaimJudged(Event, frozen=True, tag=True, omit_defaults=True):
    """A version's claim about risk was compared with the desk's results; see `daemon.core.risk.claim`."""

    version: str
    verdict: str  # kept, below, above or drawdown
    detail: str
    sessions: int  # sessions counted since this version answers
    volatility: float  # annual, of the newest window; 0 where it is not full
    drawdown: float
    consequence: str = ""  # no_new_risk, former_version or alarm for a broken claim; "" for a kept one
    former: str = ""  # the version that is to answer again


class CandidateRefused(Event, frozen=True, tag=True):
    """A version proposed as live or candidate failed a check; the former one continues.

    `known`: the start that has no model reported this reason already.
    """

    version: str
    reason: str
    known: bool | UnsetType = UNSET


class LadderMoved(Event, frozen=True, tag=True, omit_defaults=True):
    """A challenger took a step of the ladder, or ended a session on it; from here on it has `share` of the size."""

    version: str
    from_step: str  # proposed, replay, shadow, canary_10, canary_25, canary_50, canary_100
    to_step: str  # the same, or champion, refused, rolled_back
    champion: str
    share: float
    sessions: int  # on this step so far
    reason: str  # of a refusal or roll-back, as in docs/LADDER.md
    detail: str
    figures: dict[str, float] = msgspec.field(default_factory=dict)
    manifest: str = ""  # SHA-256 (hex) of the version's manifest when its card was judged; "" in older journals
    champion_manifest: str = ""  # of the champion's then


class ShadowAnswered(Event, frozen=True, tag=True, omit_defaults=True):
    """A candidate's answer to the question of `decision`. No order follows."""

    decision: int
    logits: tuple[float, ...]
    hidden: bytes
    model: str
    heads: dict[str, tuple[float, ...]] = msgspec.field(default_factory=dict)


class ShadowFailed(Event, frozen=True, tag=True):
    """A candidate failed to answer the question of `decision`."""

    decision: int
    reason: str
    model: str


class BrokerPosition(msgspec.Struct, frozen=True):
    symbol: str
    quantity: Decimal  # contracts or shares, negative when short
    average_price: Decimal  # USD for one share
    available: Decimal | None = None  # not reserved by working orders; None when unknown


class Activity(msgspec.Struct, frozen=True):
    """A line of the broker's ledger other than a fill. `kind` is its type, `amount` the change of cash in USD.

    Of a bust or correction `order` is the client order id, `side` the side of the amended fill and `filled_ns` its
    time.
    """

    id: str
    kind: str
    symbol: str
    quantity: Decimal  # signed change of contracts or shares, 0 for cash alone
    price: Decimal | None
    amount: Decimal
    status: str  # executed, correct, canceled, pending, or ""
    time_ns: int
    order: str = ""
    side: int = 0
    ex_date: str = ""  # YYYY-MM-DD: holders at the close before it are paid; "" if unknown
    filled_ns: int | UnsetType = UNSET


class LedgerBooked(Event, frozen=True, tag=True):
    """Lines of the paper broker's ledger: a day's fees on shares at its end, a dry run's splits and dividends."""

    activities: tuple[Activity, ...]


class BrokerSnapshot(Event, frozen=True, tag=True):
    """The paper broker's positions at a start, reconciled by the step."""

    cash: Decimal
    positions: tuple[BrokerPosition, ...]
    open_orders: tuple[str, ...]  # client order ids


class BrokerLost(Event, frozen=True, tag=True):
    """Order news may be missing from here on: a stream ended, or the broker does not respond.

    `taken`: another connection, perhaps another process of this desk, receives the account's order news.
    """

    detail: str
    taken: bool | UnsetType = UNSET


class Funds(msgspec.Struct, frozen=True, gc=False):
    """Funds and margin of the account at the broker, in USD; None when unknown."""

    multiplier: Decimal | None = None  # leverage of the buying power; 1: a cash account
    buying_power: Decimal | None = None
    non_marginable: Decimal | None = None  # buying power without credit
    options: Decimal | None = None  # buying power for options
    equity: Decimal | None = None
    maintenance: Decimal | None = None  # margin requirement of the positions


class BrokerReported(Event, frozen=True, tag=True):
    """Full broker snapshot, requested at `asked_ns`: account, positions, orders, fills, activities.

    `orders` are the open ones and those that ended since the last report; `fills` and `activities` are the ledger's
    lines since the last report (all of the day after a start). Both may repeat known ones.
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
    next_close_ns: int = 0  # the same; 0 also after a single reading


class ContractExpired(Event, frozen=True, tag=True):
    """An option held at expiry settled. `shares` is the signed share change of an exercise, 0 when worthless."""

    symbol: str
    quantity: int
    underlying: str
    shares: int
    strike: Decimal


class CashTransferred(Event, frozen=True, tag=True):
    """Money came (positive) or went by transfer: neither gain nor loss."""

    amount: Decimal


class BrokerOrder(msgspec.Struct, frozen=True):
    """An order as the broker describes it. `status` is a key of `LIFE`'s map; `average_price` None before a fill."""

    client_order_id: str
    order_id: str
    symbol: str
    side: int  # +1 buy, -1 sell
    quantity: Decimal
    limit_price: Decimal | None
    intent: str  # buy_to_open, ...; "" when unknown
    status: str
    filled: Decimal
    average_price: Decimal | None  # USD a share
    submitted_ns: int
    replaced_by: str = ""
    stop_price: Decimal | UnsetType = UNSET  # USD; unset unless it is a stop


class OrderAccepted(Event, frozen=True, tag=True):
    client_order_id: str
    order_id: str = ""  # the broker's own id, "" where it has none


class OrderRejected(Event, frozen=True, tag=True):
    """The order was refused; `denied`: by a limit of a gateway, before the broker.

    `existing` is how much of its symbol the account holds, where a refused sale names it.
    """

    client_order_id: str
    reason: str
    denied: bool | UnsetType = UNSET
    existing: Quantity | UnsetType = UNSET


class OrderFilled(Event, frozen=True, tag=True):
    """A fill, whole or partial. Its identity is (client order id, `correction`, `cumulative_quantity`).

    `cumulative_quantity` counts from the order's start, `cumulative_cost` = sum of price x quantity (USD a share
    times contracts), `cumulative_fees` in USD; quantities are set from these, never added.
    """

    client_order_id: str
    symbol: str
    side: int  # +1 bought, -1 sold
    price: Decimal  # of this execution
    filled_ns: int  # when it traded (in replay the bar's open or end); `time_ns` is when we knew
    cumulative_quantity: Quantity
    cumulative_cost: Decimal
    cumulative_fees: Decimal
    quantity: Quantity  # of this execution
    correction: int = 0


class OrderCanceled(Event, frozen=True, tag=True):
    client_order_id: str


class OrderExpired(Event, frozen=True, tag=True):
    client_order_id: str


class CancelRejected(Event, frozen=True, tag=True):
    client_order_id: str
    reason: str


class OrderUnknown(Event, frozen=True, tag=True):
    """The broker did not answer in time: the order may live, and counts as exposure until settled."""

    client_order_id: str


class OrderFound(Event, frozen=True, tag=True):
    """The broker's state of an order: the answer to a look-up, or news about a foreign order."""

    order: BrokerOrder


class OrderMissing(Event, frozen=True, tag=True):
    """The broker has no order of this name, after several requests."""

    client_order_id: str


class TradeCorrected(Event, frozen=True, tag=True):
    """The broker amended or busted the execution `execution_id`.

    The totals are the order's in the same message: after the amendment, or still before it.
    """

    client_order_id: str
    execution_id: str
    cumulative_quantity: Quantity
    cumulative_cost: Decimal
    reason: str  # trade_bust or trade_correct


class HaltRequested(Event, frozen=True, tag=True):
    reason: str  # an alarm name of docs/OPERATIONS.md
    detail: str
    who: str
    strategy: bool = False  # it raised twice: it is not asked again until a resume


class ResumeRequested(Event, frozen=True, tag=True):
    """Ends a halt or a pause. `reason` must not be empty.

    `reset_limits`: the limits of loss and drawdown count from the present equity on; without it they count as before.
    `scope` is that of the signing key: with one it cannot end halts that wait for the broker's report. `seen_ns` is the
    desk's time at which the person looked: later halts and pauses stay.
    """

    reason: str
    who: str
    reset_limits: bool = False
    scope: str | UnsetType = UNSET  # unset: may do everything
    seen_ns: int | UnsetType = UNSET  # unset: ends later halts too


class PauseRequested(Event, frozen=True, tag=True):
    reason: str
    who: str


class FlattenRequested(Event, frozen=True, tag=True):
    reason: str
    who: str


class CloseRequested(Event, frozen=True, tag=True):
    """Sell `quantity` of a holding, 0 for all of it; the policy does not buy it back in this session."""

    symbol: str
    quantity: Quantity
    reason: str
    who: str


class AcceptBrokerRequested(Event, frozen=True, tag=True):
    """Take over the broker's next report into the book: positions, cash, no order of ours. Halts."""

    reason: str
    who: str


class PanicNoticed(Event, frozen=True, tag=True):
    """A panic was run, which flattens the account without this journal: stand down, halted."""

    detail: str


class PanicFailed(Event, frozen=True, tag=True):
    """The panic ended without reporting a flat account: close what is the desk's own."""

    detail: str


class StopRequested(Event, frozen=True, tag=True):
    """End the daemon cleanly: no new risk, working entries are cancelled, positions kept or left."""

    reason: str
    flatten: bool


class ClockReset(Event, frozen=True, tag=True):
    """The desk's time goes back to `time_ns`, verified by the broker's clock: the only event that can do so."""

    reason: str
    who: str


class ReloadRequested(Event, frozen=True, tag=True):
    """Check the model store now. The result is `ModelPromoted`, `CandidateRefused` or nothing."""

    reason: str
    who: str


class StatusRequested(Event, frozen=True, tag=True):
    """A status request came over the network; it changes nothing."""

    reason: str
    who: str


class CommandRefused(Event, frozen=True, tag=True):
    """A command was refused: not signed, late, repeated or unreadable."""

    channel: str  # how it came
    reason: str


class CodeChanged(Event, frozen=True, tag=True):
    """This run's code took over events that it could not reproduce: other code wrote them, or the journal is damaged.

    They were applied as recorded, without the damaged ones; effects that left the process then count as the desk's.
    """

    former: str  # digest of the code that wrote them
    events: int  # number taken over
    differences: int  # number for which this code would have decided otherwise
    detail: str
    decision: int  # the highest decision number in the journal, which must not be reused
    damaged: bool = False  # damaged rows of the journal were left out


class TroubleNoticed(Event, frozen=True, tag=True):
    """The shell noticed a problem that a person must know. `name` has a heading in docs/OPERATIONS.md."""

    name: str
    detail: str


class RunStarted(Event, frozen=True, tag=True):
    """A process started on this journal. `trading` holds from here on; `code` is the digest of the deciding code."""

    mode: str
    account: str
    strategy: str
    epoch: str
    code: str
    feed: str
    trading: Trading
    account_number: str = ""  # as configured; "" if it is not
    # source -> dotted keys of `trading` from it; others are defaults
    origins: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)
    libraries: str = ""  # versions of the libraries that affect decisions; "" if not recorded


class ModelVerified(Event, frozen=True, tag=True):
    """The model store loaded a model whose hash, digest and golden outputs are right."""

    version: str
    digest: str
    promoted: bool
    feed: str  # the feed whose bars it was trained on
    claim: RiskClaim | UnsetType = UNSET  # unset without one that these rules keep


class ModelRefused(Event, frozen=True, tag=True):
    reason: str


AnyEvent = (
    RunStarted
    | ModelVerified
    | ModelRefused
    | BrokerSnapshot
    | SessionScheduled
    | ContractsListed
    | BarClosed
    | PartClosed
    | BarCorrected
    | BarRejected
    | TradingStatusChanged
    | QuotesReceived
    | PricesPrinted
    | RebalanceDue
    | HistoryAdjusted
    | SharesSplit
    | ActionsAnnounced
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
    | LedgerBooked
    | HaltRequested
    | ResumeRequested
    | PauseRequested
    | FlattenRequested
    | CloseRequested
    | AcceptBrokerRequested
    | PanicNoticed
    | PanicFailed
    | StopRequested
    | ClockReset
    | ReloadRequested
    | StatusRequested
    | CommandRefused
    | ModelPromoted
    | CandidateRefused
    | LadderMoved
    | ClaimJudged
    | ShadowAnswered
    | ShadowFailed
    | CodeChanged
    | TroubleNoticed
)

STARTUP_EVENTS: tuple[type[Event], ...] = (RunStarted, ModelVerified, ModelRefused, BrokerSnapshot)
"""These depend on how often a run was restarted, so the hash chain and the event count leave them out."""

FEED_EVENTS: tuple[type[Event], ...] = (
    SessionScheduled,
    BarClosed,
    PartClosed,
    BarCorrected,
    BarRejected,
    PricesPrinted,
    RebalanceDue,
    HistoryAdjusted,
    SharesSplit,
    ClockTicked,
    SessionEnded,
)
"""These come from the market-data source in its order; a replay resumes by skipping as many as the journal holds."""
