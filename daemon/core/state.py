"""The daemon's whole state, as one frozen value.

Nothing here decides. Snapshots hold `State`, and the state digest is computed from it; a step prepares the next one in
a `daemon.core.draft.Draft`.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
from itertools import accumulate
from typing import Any, Generic, TypeVar

import msgspec
from msgspec import UNSET, UnsetType

from daemon.core.events import Activity, Contract, Funds, Quote, RiskClaim
from daemon.core.limits import Trading
from daemon.core.orders import Order, Work
from daemon.core.records import DecisionRow
from strategies.kit.contract import Bar, Leg, Session
from strategies.kit.quantity import Quantity, to_json

S = TypeVar("S")
ZERO = Decimal(0)
BROKER_MODES = frozenset(("paper", "live"))  # modes with a real broker
TAPE_MODES = frozenset(("replay", "recorded"))  # driven by a tape, with modelled or with recorded quotes
ADJUSTED_MAX = 6  # small differences of cash kept, and lines that may explain them
EVERY_SYMBOL = "*"  # in `BasketState.indivisible`: the account takes no fraction of any symbol in this session
SEEN_MAX = 2000  # names kept in `BrokerState.seen`; a report repeats two days at most


class Identity(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The identity of a journal. A journal opened with another identity is refused.

    `symbols` are those of a strategy that serves any; () where they are the strategy's own. `config` is the canonical
    text of its model configuration, "" where it has none.
    """

    mode: str
    account: str
    strategy: str
    epoch: str
    feed: str
    symbols: tuple[str, ...] = ()
    config: str = ""

    @property
    def by_tape(self) -> bool:
        """Whether a recorded tape moves this desk."""
        return self.mode in TAPE_MODES

    @property
    def dry(self) -> bool:
        """Whether it is a dry run on a live feed: a paper broker books what is announced of its shares."""
        return self.mode not in BROKER_MODES and not self.by_tape


class Halt(msgspec.Struct, frozen=True, gc=False):
    reason: str  # a heading of docs/OPERATIONS.md
    detail: str
    since_ns: int
    again_ns: int | UnsetType = UNSET  # when it was last repeated, in other words
    others_ns: int | UnsetType = UNSET  # when another person last repeated it


class Pause(msgspec.Struct, frozen=True, gc=False):
    reason: str
    until_ns: int  # 0: until resumed
    since_ns: int | UnsetType = UNSET  # when it was requested; unset for losses in a row


class Model(msgspec.Struct, frozen=True, gc=False):
    version: str
    promoted: bool
    feed: str


class Position(msgspec.Struct, frozen=True, gc=False):
    """Contracts (or shares, `multiplier` 1) held long. `cost` is the sum of price x quantity still held."""

    symbol: str
    right: int  # +1 call, -1 put, 0 shares
    quantity: Quantity
    cost: Decimal
    multiplier: int
    opened_ns: int
    expiry: str
    pnl: Decimal = ZERO  # realised by this position so far, after fees: win or loss when it closes
    high: Decimal | UnsetType = UNSET  # highest mark since the entry, USD, above the price paid; unset without a trail


class Book(msgspec.Struct, frozen=True, gc=False):
    """Cash, positions and equity in USD. Equity marks options at the last known mid."""

    cash: Decimal = ZERO
    positions: dict[str, Position] = {}
    realized: Decimal = ZERO  # after fees
    fees: Decimal = ZERO
    equity: Decimal = ZERO
    peak: Decimal = ZERO
    max_drawdown: float = 0.0
    session_start_equity: Decimal = ZERO
    transfers: Decimal = ZERO  # of this session
    session_base: Decimal = ZERO  # equity at the session's start, scaled by transfers like the peak; 0: not scaled
    guard_base: Decimal = ZERO  # base of the loss limit since it was reset; 0: not reset
    guard_peak: Decimal = ZERO  # peak of the drawdown limit since it was reset, until the real peak is passed
    claim_close: Decimal | UnsetType = UNSET  # of `ClaimState`: equity at the last close, moved with transfers
    claim_base: Decimal | UnsetType = UNSET  # the same, moved with income too


class OptionChain(msgspec.Struct, frozen=True, gc=False):
    """The contracts of the chosen expiry, calls and puts aligned by ascending strike."""

    session_date: str
    expiry: str
    strikes: tuple[float, ...]
    calls: tuple[Contract, ...]
    puts: tuple[Contract, ...]
    volatility: float | None


class TradingHalt(msgspec.Struct, frozen=True, gc=False):
    """The halt of a share by its exchange; `until_ns` is 0 while it lasts."""

    since_ns: int
    reason: str
    until_ns: int = 0


class SessionState(msgspec.Struct, frozen=True, gc=False):
    """The session that runs or comes next; `starts` are the last bars' starts, newest last, for the gap rule."""

    session: Session | None = None
    upcoming: tuple[Session, ...] = ()
    last_bar_ns: int = 0
    spot: float = 0.0
    starts: tuple[int, ...] = ()
    warm: bool = False
    ended: bool = False
    previous: str = ""  # the date of the session before it, "" where it is not known
    calendar_close_ns: int | UnsetType = UNSET  # calendar's close, where the broker's market closes earlier
    trading_halts: dict[str, TradingHalt] | UnsetType = UNSET  # the newest halt of each share in this session
    untraded: dict[str, str] | UnsetType = UNSET  # symbol -> the broker's reason not to trade it in this session
    requoted: dict[str, int] | UnsetType = UNSET  # when a corporate action in this session dropped a share's quote

    def trading_halt(self, root: str) -> TradingHalt | None:
        """Return the halt of a share that lasts, None without one."""
        halt = None if isinstance(self.trading_halts, UnsetType) else self.trading_halts.get(root)
        return halt if halt is not None and not halt.until_ns else None

    def trading_refusal(self, symbol: str) -> str:
        """Return the broker's reason for not trading the symbol, "" without one."""
        return "" if isinstance(self.untraded, UnsetType) else self.untraded.get(symbol, "")

    def requoted_ns(self, symbol: str) -> int:
        """Return when a corporate action in this session dropped the share's quote; 0 without one."""
        return 0 if isinstance(self.requoted, UnsetType) else self.requoted.get(symbol, 0)

    def reopened_ns(self, root: str) -> int:
        """Return when a share's newest halt ended; 0 without one, and while it lasts."""
        halt = None if isinstance(self.trading_halts, UnsetType) else self.trading_halts.get(root)
        return halt.until_ns if halt is not None else 0


class RiskState(msgspec.Struct, frozen=True, gc=False):
    reconciled: bool = False
    halt: Halt | None = None
    pause: Pause | None = None
    last_trade_ns: int = 0  # when a position was last closed
    last_loss_ns: int = 0
    order_times: tuple[int, ...] = ()  # orders of the last minute
    orders_today: int = 0
    consecutive_losses: int = 0
    outcomes: tuple[bool, ...] = ()  # of the last orders: True for a rejection
    alarms: tuple[str, ...] = ()  # cases already raised in this session
    stopping: str = ""  # why the daemon is being stopped; no new risk until its next start
    stop_flat: bool = False  # positions are left before the stop
    by_hand: dict[str, str] | UnsetType = (
        UNSET  # what a person closed: share or underlying, to its session's date, "" the next
    )
    strategy_off: bool = False  # the strategy raised twice: not called until a resume
    behind: tuple[Halt, ...] | UnsetType = UNSET  # halts behind the first one: the first of each reason

    @property
    def halts(self) -> tuple[Halt, ...]:
        """All halts: the first one, and those behind it."""
        if self.halt is None:
            return ()
        return (self.halt,) if isinstance(self.behind, UnsetType) else (self.halt, *self.behind)

    @property
    def closed_by_hand(self) -> dict[str, str]:
        """`by_hand`, or an empty dict if unset."""
        return {} if isinstance(self.by_hand, UnsetType) else self.by_hand


class Suspicion(msgspec.Struct, frozen=True, gc=False):
    """Differences between book and broker that have lasted since `since_ns`; judged once they lasted long enough."""

    differences: tuple[str, ...]
    since_ns: int


class Adjusted(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Cash booked before any line explained it, and the cash of lines since book and broker last agreed.

    USD, the newest last; `ADJUSTED_MAX` of each are kept.
    """

    amounts: tuple[Decimal, ...]
    told: tuple[Decimal, ...] = ()


class HeldAtClose(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Quantities of desk and others in a symbol from the close of `date` on, "" for the journal's start."""

    date: str
    own: Quantity
    others: Quantity


class Owners(msgspec.Struct, frozen=True, gc=False):
    """Who held what at past closes, for symbols that others hold or held: see `daemon.core.broker.foreign`."""

    noted: str = ""  # date of the last recorded close
    closes: dict[str, tuple[HeldAtClose, ...]] = {}
    moves: dict[str, tuple[Quantity, Quantity]] = {}  # own and others' shares that left, by line's kind, symbol and day
    lieu: dict[str, Decimal] = {}  # the desk's part of the cash in lieu to come, by symbol
    owed: dict[str, tuple[int, int]] = {}  # own and others' exercised contracts whose shares are to come
    disputed: tuple[str, ...] = ()  # symbols with a line whose owner is not known
    alone_from: str | UnsetType = UNSET  # first close since which symbols not in `closes` were the desk's alone


class BrokerState(msgspec.Struct, frozen=True, gc=False):
    """Memory of the real broker's reports; unused with a paper broker."""

    account: str = ""  # the account's number, from the first report on
    expected: str = ""  # the number in the configuration, "" without one
    blocked: str = ""  # why the account may not trade by the last report, "" when it may
    funds: Funds | None = None  # by the last report
    closed: bool = False  # its market is closed during a session of the calendar, by the last report
    opened_ns: int | UnsetType = UNSET  # when a report last showed its market open again
    wrong: bool = False  # the last report was of another account: nothing is sent to it
    started_ns: int = 0  # when this process started
    reported_ns: int = 0  # when the last report of the right account came
    began_ns: int = 0  # ledger lines from before are not the desk's
    agreed_ns: int = 0  # when book and broker last agreed
    lost_ns: int = 0  # when news was last lost: an earlier agreement is outdated
    taken: bool | UnsetType = UNSET  # set while another connection has the account's order news
    suspicion: Suspicion | None = None
    seen: tuple[str, ...] = ()  # ids of ledger lines, and refused orders with their fills, judged before
    asked_ns: int = 0  # when the last report of the right account was requested: later news are not in it
    available: dict[str, Quantity] = {}  # what the broker lets us sell, of symbols without changes since that report
    moved: dict[str, int] = {}  # symbol -> when its orders last changed since that report was requested
    filled: dict[str, int] = {}  # the same for booked fills
    touched: dict[str, int] = {}  # the same for symbols in which another party traded
    doubtful: tuple[str, ...] = ()  # symbols whose quantity in that report differs from the book
    sighted_ns: int = 0  # when positions and orders last agreed, whatever the cash was
    cash_since_ns: int = 0  # since when the cash differs by more than a fee; 0: it does not
    accept_ns: int = 0  # when a person accepted the next report; 0: not accepted
    stood_down: bool = False  # after a panic: nothing is sent until it fails or the broker's report is accepted
    foreign: dict[str, Order] = {}  # foreign orders that are ignored, with their fills
    foreign_held: dict[str, Quantity] = {}  # foreign quantities by symbol
    parted: int | UnsetType = UNSET  # fills of fractions since the cash last agreed: each may be rounded
    beside: dict[str, Quantity] | UnsetType = UNSET  # quantities below one share that no order and no line explains
    settled: tuple[tuple[str, int], ...] = ()  # shares booked from positions before their ledger line: (symbol, shares)
    panic_failed_ns: int = 0  # when the panic turned out to have failed; 0: it did not
    owners: Owners = Owners()
    unfenced_ns: int | UnsetType = UNSET  # when a resume last requested that the account's fence be lifted
    beyond: dict[str, Quantity] | UnsetType = UNSET  # what that report has above the expected, for `available`
    adjusted: Adjusted | UnsetType = UNSET  # set while cash is booked without a line
    taken_cash: tuple[Decimal, ...] | UnsetType = UNSET  # taken over before its line came, newest last
    waiting: tuple[Activity, ...] | UnsetType = UNSET  # ledger lines that wait for a later report
    refused: dict[str, tuple[str, Quantity]] | UnsetType = UNSET  # see `refused_fills`

    @property
    def follows_panic(self) -> bool:
        """True while the desk closes what a failed panic left, before a person accepts the broker's report."""
        return self.stood_down and self.panic_failed_ns > 0 and not self.accept_ns

    @property
    def beside_fractions(self) -> dict[str, Quantity]:
        """`beside`, or an empty dict if unset."""
        return {} if isinstance(self.beside, UnsetType) else self.beside

    @property
    def waiting_lines(self) -> tuple[Activity, ...]:
        """`waiting`, or () if unset."""
        return () if isinstance(self.waiting, UnsetType) else self.waiting

    @property
    def part_fills(self) -> int:
        """`parted`, or 0 if unset."""
        return 0 if isinstance(self.parted, UnsetType) else self.parted

    @property
    def refused_fills(self) -> dict[str, tuple[str, Quantity]]:
        """Symbol and signed fills of orders of others that are in no book (`halt`), until the positions agree."""
        return {} if isinstance(self.refused, UnsetType) else self.refused

    def refused_of(self, symbol: str) -> Quantity:
        """Return how many shares of a symbol these orders bought, less those they sold."""
        return sum((filled for name, filled in self.refused_fills.values() if name == symbol), 0)

    def refused_until(self, symbol: str) -> list[Quantity]:
        """Return how many shares these orders had bought at each time, 0 first: one of these was so at a split."""
        bought = (filled for name, filled in self.refused_fills.values() if name == symbol and filled > 0)
        return list(accumulate(bought, initial=0))

    def beyond_of(self, symbol: str) -> Quantity:
        """Return `beyond` of a symbol, or 0."""
        return 0 if isinstance(self.beyond, UnsetType) else self.beyond.get(symbol, 0)


class Leaver(msgspec.Struct, frozen=True, gc=False):
    """Shares that a corporate action took away under one symbol, until their replacement is known."""

    kind: str  # kind of the ledger's line
    symbol: str
    quantity: Quantity
    since_ns: int | UnsetType = UNSET  # when the line was booked; unset in older journals


class Goal(Leg, frozen=True, gc=False):
    """A leg of a basket with an exact goal: a snapshot keeps its fraction."""

    goal: Quantity


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A basket that waits until `until_ns`, the row of its decision, and the highest prices of its buys.

    `held` are the quantities at the decision, None where unknown; `capped` the symbols that the risk overlay sells.
    """

    legs: tuple[Goal, ...]
    row: DecisionRow
    until_ns: int
    bounds: dict[str, Decimal] = {}
    held: dict[str, Quantity] | None = None
    capped: tuple[str, ...] = ()


class BasketState(msgspec.Struct, frozen=True, gc=False):
    """The last basket of a desk of shares; its remaining sales and buys are works."""

    date: str = ""  # of the newest session for which a basket was due: later ones only are accepted
    decision: int = 0  # of the last basket that passed the gates
    given_up: dict[str, Quantity] = {}  # shares not traded before its end, negative for sales
    leavers: tuple[Leaver, ...] = ()
    fills: int = 0  # executions so far when the equity was last recorded
    splits: tuple[str, ...] = ()  # held symbols with a split in their history that has no ledger line yet
    sure: tuple[str, ...] = ()  # of these, at a certain ratio: they wait longer for the ledger
    apart: tuple[str, ...] = ()  # held symbols whose quantity in the broker's last report differs
    to_come: tuple[str, ...] = ()  # of these, those that the broker's positions show as split
    unadjusted: tuple[str, ...] = ()  # symbols whose split is booked while their bars are of the old shares
    leapt: dict[str, int] = {}  # held symbol -> since when its price may be that of a split
    newest: dict[str, int] = {}  # symbol -> start of the newest bar passed to the strategy
    waiting: Waiting | None = None  # the basket that a gate denies for a passing cause
    memory_of: str = ""  # version of the model that made a recurrent policy's memory, "" for none
    fractions: bool | UnsetType = UNSET  # choice of `fractions = "auto"` at the first basket
    goals: dict[str, Quantity] | UnsetType = UNSET  # symbol -> goal of the basket under way
    indivisible: tuple[str, ...] | UnsetType = UNSET  # symbols whose fractions were refused this week
    split_ns: dict[str, int] | UnsetType = UNSET
    """Symbol -> open from which its newest split counts, negative where the strategy did not adjust its bars."""
    lieu: tuple[Activity, ...] | UnsetType = UNSET  # cash in lieu that came before its split
    exposure_max: Decimal | UnsetType = UNSET  # USD of exposure up to which the newest decision may buy
    announced: dict[str, tuple[str, str]] | UnsetType = UNSET
    """Held symbol -> (kind, date) of an announced merger or spin-off."""

    @property
    def uncertain_symbols(self) -> tuple[str, ...]:
        """Symbols whose positions no price may mark: the price may be for other shares."""
        return (*self.splits, *self.apart)

    @property
    def refused_fractions(self) -> tuple[str, ...]:
        """`indivisible`, or () if unset."""
        return () if isinstance(self.indivisible, UnsetType) else self.indivisible

    def is_indivisible(self, symbol: str) -> bool:
        """Return whether the broker has refused fractions of this symbol."""
        return symbol in self.refused_fractions or EVERY_SYMBOL in self.refused_fractions

    @property
    def split_from(self) -> dict[str, int]:
        """`split_ns`, or an empty dict if unset."""
        return {} if isinstance(self.split_ns, UnsetType) else self.split_ns

    @property
    def early_lieu(self) -> tuple[Activity, ...]:
        """`lieu`, or () if unset."""
        return () if isinstance(self.lieu, UnsetType) else self.lieu

    def left_by(self, line: Activity) -> tuple[Leaver, ...]:
        """Return the shares of the line's symbol that earlier lines of its kind took away."""
        return tuple(it for it in self.leavers if (it.kind, it.symbol) == (line.kind, line.symbol))


class ShadowState(msgspec.Struct, frozen=True, gc=False):
    """The memory of the recurrent candidate."""

    model: str = ""  # version that made it, "" for none
    hidden: bytes = b""


class LadderState(msgspec.Struct, frozen=True, gc=False):
    """The newest challenger's step, and the versions that left the ladder."""

    version: str
    step: str
    champion: str
    share: float  # part of the size while this version answers
    sessions: int
    figures: dict[str, float]
    judged: tuple[str, ...] = ()
    manifest: str = ""  # SHA-256 (hex) of the version's manifest when its card was judged
    champion_manifest: str = ""  # the same of the champion


class BrokenClaim(msgspec.Struct, frozen=True, gc=False):
    """A version that broke its claim takes no new risk until a person resumes the desk."""

    detail: str
    since_ns: int
    former: str  # the version to answer in its place, "" for none


class ClaimState(msgspec.Struct, frozen=True, gc=False):
    """Figures for a model's claim about risk, and the versions that broke theirs: see `daemon.core.risk.claim`."""

    version: str = ""  # version whose claim is watched, "" for none
    claim: RiskClaim | None = None
    closed: str = ""  # date of the newest recorded close, "" before the first
    decision: int = 0  # number of the newest decision at that close
    returns: tuple[float, ...] = ()  # returns of the newest counted sessions, newest last; a window at most
    heights: tuple[float, ...] = ()  # newest closes as parts of the last one, over the sessions of the stated drawdown
    sessions: int = 0  # number of sessions counted
    left_out: int = 0
    why_left_out: str = ""  # reason for the newest one
    judged: int = 0  # value of `sessions` when the volatility was last judged
    verdict: str = ""  # the newest verdict, "" before the first
    broken: dict[str, BrokenClaim] = {}


class Ask(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """The open question to the policy.

    `row` is its newest feature row, or one for each symbol where rows are symbols, as float32 bytes.
    """

    decision: int
    bar_ns: int
    valid_until_ns: int
    row: bytes
    served: bool = False  # another process answers


class Leap(msgspec.Struct, frozen=True, gc=False):
    """A price far from the last mark, in USD, that waits for a later quote to confirm it."""

    price: Decimal
    quoted_ns: int


class Worth(msgspec.Struct, frozen=True, gc=False):
    """What a share of a held option would fetch, in USD (`daemon.core.risk.marks`).

    The first four are those of its last narrow quote, or of the price paid before there was one.
    """

    middle: Decimal
    spread: Decimal
    spot: float  # price of the underlying then
    narrow_ns: int
    confirmed: Decimal | None = None  # by two figures a second apart
    doubted: Decimal | None = None  # the newest figure, which the next one confirms
    doubted_ns: int = 0


class Stats(msgspec.Struct, frozen=True, gc=False):
    """Counts since the journal began. `actions` by the spec's order, after resolution."""

    bars: int = 0
    bars_rejected: int = 0
    decisions: int = 0
    orders: int = 0
    fills: int = 0
    partial_fills: int = 0
    trades: int = 0
    wins: int = 0
    actions: tuple[int, ...] = ()
    denials: dict[str, int] = {}


class State(msgspec.Struct, Generic[S], frozen=True, gc=False):
    strategy: S
    identity: Identity
    trading: Trading
    now_ns: int = 0
    seq: int = 0  # chained events stepped
    fed: int = 0  # feed events among them
    decision: int = 0
    session: SessionState = SessionState()
    chain: OptionChain | None = None
    watched: tuple[str, ...] = ()
    contracts: dict[str, Contract] = {}  # watched or held, by symbol
    quotes: dict[str, Quote] = {}
    book: Book = Book()
    orders: dict[str, Order] = {}  # working
    closed: dict[str, Order] = {}  # ended in this session, for late news, or the last attempt of a work
    works: dict[str, Work] = {}
    risk: RiskState = RiskState()
    model: Model | None = None
    pending_bars: tuple[Bar, ...] = ()
    ask: Ask | None = None
    stats: Stats = Stats()
    broker: BrokerState = BrokerState()
    marks: dict[str, Decimal] = {}  # last confirmed price in USD, of the desk's shares or held options
    basket: BasketState = BasketState()
    shadow: ShadowState = ShadowState()
    leaps: dict[str, Leap] = {}  # prices that are not accepted yet
    wanted: dict[str, Quantity] = {}  # quantity that the desk last decided to hold, by symbol
    doubted: Bar | None = None  # a bar with leaping prices, until quotes or the next bar decide
    ladder: LadderState | UnsetType = UNSET  # not encoded until a version climbs
    worths: dict[str, Worth] | UnsetType = UNSET  # of held options; not encoded while there is none
    claim: ClaimState | UnsetType = UNSET  # not encoded until a model with a claim about risk answers

    @property
    def exposed(self) -> bool:
        """Whether the desk holds something or has a working order of its own."""
        return bool(self.book.positions) or any(order.purpose != "foreign" for order in self.orders.values())


_ENCODER = msgspec.json.Encoder(enc_hook=to_json)  # dicts keep their order, which is part of the state


def encode_state(state: State[Any]) -> bytes:
    """Return the canonical JSON of a state: equal states give equal bytes."""
    return _ENCODER.encode(state)


def digest(state: State[Any]) -> str:
    """Return the SHA-256 of the canonical JSON, as 64 hex digits."""
    return hashlib.sha256(encode_state(state)).hexdigest()
