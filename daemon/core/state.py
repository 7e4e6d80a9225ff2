"""The daemon's whole state, as one frozen value.

Nothing here decides. Snapshots hold `State`, and the state digest is computed from it; a step prepares the next one in
a `daemon.core.draft.Draft`.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal
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
TAPE_MODES = frozenset(("replay", "recorded"))  # a tape moves the desk: with its own option market, with quotes on file
ADJUSTED_MAX = 6  # of small differences of cash, and of lines that may explain them
EVERY_SYMBOL = "*"  # in place of one in `BasketState.indivisible`: the account takes no fraction in this session
SEEN_MAX = 2000  # names kept in `BrokerState.seen`; a report repeats at most two days


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


class Halt(msgspec.Struct, frozen=True, gc=False):
    reason: str  # a heading of docs/OPERATIONS.md
    detail: str
    since_ns: int
    again_ns: int | UnsetType = UNSET  # when it last came again, in other words
    others_ns: int | UnsetType = UNSET  # when it last came so from another person than at first


class Pause(msgspec.Struct, frozen=True, gc=False):
    reason: str
    until_ns: int  # 0: until resumed
    since_ns: int | UnsetType = UNSET  # when it was asked for; unset for losses in a row


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
    pnl: Decimal = ZERO  # realised by this position so far, after fees: decides win or loss when it closes
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
    session_base: Decimal = ZERO  # the equity at the session's start, moved with transfers as the peak; 0: the start
    guard_base: Decimal = ZERO  # what the limits count from in place of it, since they were reset; 0: not reset
    guard_peak: Decimal = ZERO  # and in place of the peak, until the peak is passed
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
    calendar_close_ns: int | UnsetType = UNSET  # where the broker's market closes earlier than in the calendar
    trading_halts: dict[str, TradingHalt] | UnsetType = UNSET  # of this session, by share: the newest of each
    untraded: dict[str, str] | UnsetType = UNSET  # what the broker refuses to trade in this session, to its words

    def trading_halt(self, root: str) -> TradingHalt | None:
        """Return the halt of a share that lasts, None without one."""
        halt = None if isinstance(self.trading_halts, UnsetType) else self.trading_halts.get(root)
        return halt if halt is not None and not halt.until_ns else None

    def trading_refusal(self, symbol: str) -> str:
        """Return the broker's words of why it does not trade the symbol, "" while it refused nothing for that."""
        return "" if isinstance(self.untraded, UnsetType) else self.untraded.get(symbol, "")

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
    order_times: tuple[int, ...] = ()  # of the last minute
    orders_today: int = 0
    consecutive_losses: int = 0
    outcomes: tuple[bool, ...] = ()  # of the last orders: True when rejected
    alarms: tuple[str, ...] = ()  # raised once a session
    stopping: str = ""  # why the daemon is being stopped; no new risk until its next start
    stop_flat: bool = False  # and positions are left meanwhile
    by_hand: dict[str, str] | UnsetType = (
        UNSET  # what a person closed: share or underlying, to its session's date, "" the next
    )
    strategy_off: bool = False  # the strategy raised twice: it is not asked again until a resume
    behind: tuple[Halt, ...] | UnsetType = UNSET  # halts that another one stands before: one of a reason, the first

    @property
    def halts(self) -> tuple[Halt, ...]:
        """All that halts: the one that stands first, and those behind it."""
        if self.halt is None:
            return ()
        return (self.halt,) if isinstance(self.behind, UnsetType) else (self.halt, *self.behind)

    @property
    def closed_by_hand(self) -> dict[str, str]:
        """`by_hand`, empty while nothing was closed."""
        return {} if isinstance(self.by_hand, UnsetType) else self.by_hand


class Suspicion(msgspec.Struct, frozen=True, gc=False):
    """Differences between book and broker that stand since `since_ns`; judged once they stood long enough."""

    differences: tuple[str, ...]
    since_ns: int


class Adjusted(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """Cash that was booked before any line explained it, and the lines' cash since book and broker last agreed.

    USD, the newest last; `ADJUSTED_MAX` of each are kept.
    """

    amounts: tuple[Decimal, ...]
    told: tuple[Decimal, ...] = ()


class HeldAtClose(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What desk and others held of a symbol from the close of `date` on, "" from the journal's begin on."""

    date: str
    own: Quantity
    others: Quantity


class Owners(msgspec.Struct, frozen=True, gc=False):
    """Who held what beside whom: `daemon.core.broker.foreign`. Only symbols that others hold, or held."""

    noted: str = ""  # the date of the last close that was noted
    closes: dict[str, tuple[HeldAtClose, ...]] = {}
    moves: dict[str, tuple[Quantity, Quantity]] = {}  # own and others' of shares that left, by line's kind and symbol
    lieu: dict[str, Decimal] = {}  # the desk's part of the cash in lieu to come, by symbol
    owed: dict[str, tuple[int, int]] = {}  # own and others' contracts whose shares are to come, by contract
    disputed: tuple[str, ...] = ()  # symbols with a line whose owner is not known
    alone_from: str | UnsetType = UNSET  # the first close from which on what is not in `closes` was the desk's alone


class BrokerState(msgspec.Struct, frozen=True, gc=False):
    """Memory of the real broker's reports. Unused with a paper broker."""

    account: str = ""  # the account's number, from the first report on
    expected: str = ""  # the number that the configuration names, "" where it names none
    blocked: str = ""  # why the account may not trade by the last report, "" when it may
    funds: Funds | None = None  # by the last report
    closed: bool = False  # its market is closed in a session of our calendar, by the last report
    opened_ns: int | UnsetType = UNSET  # when a report last said that its market is open again
    wrong: bool = False  # the keys opened another account at the last report: nothing is sent there
    started_ns: int = 0  # when this process took the journal over
    reported_ns: int = 0  # when the last report of the right account came
    began_ns: int = 0  # ledger lines from before the first report are not ours
    agreed_ns: int = 0  # when book and broker last agreed
    lost_ns: int = 0  # when news was last lost: an earlier agreement may not hold
    taken: bool | UnsetType = UNSET  # set while another connection has the account's order news
    suspicion: Suspicion | None = None
    seen: tuple[str, ...] = ()  # ids of ledger lines, and refused orders with their fills, judged before
    asked_ns: int = 0  # when the last report of the right account was requested: later news are not in it
    available: dict[str, Quantity] = {}  # what the broker would let us sell, where nothing moved since that report
    moved: dict[str, int] = {}  # symbols whose orders changed since that report was requested, and when they last did
    filled: dict[str, int] = {}  # the same for booked fills
    touched: dict[str, int] = {}  # the same for symbols in which another party traded
    doubtful: tuple[str, ...] = ()  # symbols with another quantity in that report than in the book
    sighted_ns: int = 0  # when positions and orders last agreed, whatever the cash was
    cash_since_ns: int = 0  # since when the cash differs by more than a fee, 0 where it does not
    accept_ns: int = 0  # when a person accepted the next report, 0 if not
    stood_down: bool = False  # a panic was run: nothing is sent until it fails, or the broker's report is accepted
    foreign: dict[str, Order] = {}  # foreign orders that are ignored, with their fills
    foreign_held: dict[str, Quantity] = {}  # foreign quantities by symbol
    parted: int | UnsetType = UNSET  # fills of fractions since the cash last agreed: each may be rounded by the broker
    beside: dict[str, Quantity] | UnsetType = UNSET  # less than a share, by symbol, that no order and no line explains
    settled: tuple[tuple[str, int], ...] = ()  # shares booked from positions before their ledger line: (symbol, shares)
    panic_failed_ns: int = 0  # when the panic was known to have failed, 0 if it did not
    owners: Owners = Owners()
    unfenced_ns: int | UnsetType = UNSET  # when a resume last had the account's fence lifted
    beyond: dict[str, Quantity] | UnsetType = UNSET  # what that report has beyond all that is known, of `available`
    adjusted: Adjusted | UnsetType = UNSET  # set while cash is booked that no line explained
    taken_cash: tuple[Decimal, ...] | UnsetType = UNSET  # that no line explained when it was taken over, newest last
    waiting: tuple[Activity, ...] | UnsetType = UNSET  # lines of the ledger that are booked by a later report

    @property
    def follows_panic(self) -> bool:
        """True while the desk closes what a failed panic left of its own, and nobody accepted the broker's report."""
        return self.stood_down and self.panic_failed_ns > 0 and not self.accept_ns

    @property
    def beside_fractions(self) -> dict[str, Quantity]:
        """`beside`, empty while there was none."""
        return {} if isinstance(self.beside, UnsetType) else self.beside

    @property
    def waiting_lines(self) -> tuple[Activity, ...]:
        """`waiting`, empty while there was none."""
        return () if isinstance(self.waiting, UnsetType) else self.waiting

    @property
    def part_fills(self) -> int:
        """`parted`, 0 while there was none."""
        return 0 if isinstance(self.parted, UnsetType) else self.parted

    def beyond_of(self, symbol: str) -> Quantity:
        """Return `beyond` of a symbol, 0 where there was none."""
        return 0 if isinstance(self.beyond, UnsetType) else self.beyond.get(symbol, 0)


class Leaver(msgspec.Struct, frozen=True, gc=False):
    """Shares that a corporate action took away under one symbol, until their replacement is known."""

    kind: str  # of the ledger's line
    symbol: str
    quantity: Quantity
    since_ns: int | UnsetType = UNSET  # when the line was booked; in journals of before it is not known


class Goal(Leg, frozen=True, gc=False):
    """A leg of a basket whose goal is counted: a snapshot keeps the fraction exact."""

    goal: Quantity


class Waiting(msgspec.Struct, frozen=True, gc=False):
    """A basket that waits until `until_ns`, the row of its decision, and the highest prices of its buys.

    `held` are the quantities at the decision, None where they are not known; `capped` the symbols that the risk overlay
    sells.
    """

    legs: tuple[Goal, ...]
    row: DecisionRow
    until_ns: int
    bounds: dict[str, Decimal] = {}
    held: dict[str, Quantity] | None = None
    capped: tuple[str, ...] = ()


class BasketState(msgspec.Struct, frozen=True, gc=False):
    """The last basket of a desk of shares; its remaining sales and buys are works."""

    date: str = ""  # of the last session in which a basket was due: no other basket of it, or of an earlier one, counts
    decision: int = 0  # of the last basket that passed the gates
    given_up: dict[str, Quantity] = {}  # what it did not reach before its end: shares, negative where not sold
    leavers: tuple[Leaver, ...] = ()
    fills: int = 0  # executions so far when the equity was last recorded
    splits: tuple[str, ...] = ()  # held symbols with a split in their history that has no ledger line yet
    sure: tuple[str, ...] = ()  # of these, at a ratio that leaves no doubt: wait for the ledger without limit
    apart: tuple[str, ...] = ()  # held symbols with another quantity in the broker's last report
    to_come: tuple[str, ...] = ()  # of these, split by the broker's positions
    unadjusted: tuple[str, ...] = ()  # symbols whose split is booked, and whose bars are still of the old shares
    leapt: dict[str, int] = {}  # held symbols at a price that a split would explain, and when that was first seen
    newest: dict[str, int] = {}  # start of the newest bar that the strategy keeps of each symbol, as far as known here
    waiting: Waiting | None = None  # the basket that a gate denies for a passing cause
    memory_of: str = ""  # version of the model whose answer a recurrent policy's memory is, "" for none
    fractions: bool | UnsetType = UNSET  # whether `fractions = "auto"` takes them, from the first basket on
    goals: dict[str, Quantity] | UnsetType = UNSET  # of the basket under way: what it wants of its symbols
    indivisible: tuple[str, ...] | UnsetType = UNSET  # symbols refused in fractions this week: whole shares alone
    split_ns: dict[str, int] | UnsetType = UNSET
    """Of a desk by the bar: from which open on the newest split counts, negative where the strategy did not take it."""
    lieu: tuple[Activity, ...] | UnsetType = UNSET  # cash in lieu that the ledger told before its split
    exposure_max: Decimal | UnsetType = UNSET  # USD that the risk overlay lets the newest decision's buys come to
    announced: dict[str, tuple[str, str]] | UnsetType = UNSET
    """Held symbols of which a merger or spin-off was announced, to the kind of its line and its date."""

    @property
    def uncertain_symbols(self) -> tuple[str, ...]:
        """Symbols whose shares in the book no price may mark: they may be of other shares."""
        return (*self.splits, *self.apart)

    @property
    def refused_fractions(self) -> tuple[str, ...]:
        """`indivisible`, empty while the broker refused no fraction."""
        return () if isinstance(self.indivisible, UnsetType) else self.indivisible

    def is_indivisible(self, symbol: str) -> bool:
        """Return whether the broker takes whole shares of this symbol alone, as far as it said so."""
        return symbol in self.refused_fractions or EVERY_SYMBOL in self.refused_fractions

    @property
    def split_from(self) -> dict[str, int]:
        """`split_ns`, empty while no split was told."""
        return {} if isinstance(self.split_ns, UnsetType) else self.split_ns

    @property
    def early_lieu(self) -> tuple[Activity, ...]:
        """`lieu`, empty while no line of it waits."""
        return () if isinstance(self.lieu, UnsetType) else self.lieu

    def left_by(self, line: Activity) -> tuple[Leaver, ...]:
        """Return the shares of the line's symbol that earlier lines of its kind took away."""
        return tuple(it for it in self.leavers if (it.kind, it.symbol) == (line.kind, line.symbol))


class ShadowState(msgspec.Struct, frozen=True, gc=False):
    """The memory of the recurrent candidate."""

    model: str = ""  # version whose memory it is, "" for none
    hidden: bytes = b""


class LadderState(msgspec.Struct, frozen=True, gc=False):
    """Where the newest challenger stands, and the versions that left the ladder."""

    version: str
    step: str
    champion: str
    share: float  # of the size, while this version answers
    sessions: int
    figures: dict[str, float]
    judged: tuple[str, ...] = ()
    manifest: str = ""  # SHA-256 (hex) of the version's manifest when its card was judged
    champion_manifest: str = ""  # of the champion's then


class BrokenClaim(msgspec.Struct, frozen=True, gc=False):
    """A version that broke its claim takes no new risk until a person resumes the desk."""

    detail: str
    since_ns: int
    former: str  # the version that is to answer in its place, "" for none


class ClaimState(msgspec.Struct, frozen=True, gc=False):
    """What the desk has shown of its model's claim, and the versions that broke theirs: `daemon.core.risk.claim`."""

    version: str = ""  # whose claim is watched, "" for none
    claim: RiskClaim | None = None
    closed: str = ""  # date of the newest close that was noted, "" before the first one
    decision: int = 0  # the newest decision then
    returns: tuple[float, ...] = ()  # of the newest sessions that count, newest last; at most a window
    heights: tuple[float, ...] = ()  # the newest closes, as parts of the last one; as many as a drawdown is stated for
    sessions: int = 0  # that count
    left_out: int = 0
    why_left_out: str = ""  # of the newest one
    judged: int = 0  # of `sessions`: how many when the volatility was judged last
    verdict: str = ""  # the newest, "" before the first one
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

    The first four are of its last narrow quote, or of the price paid before there was one.
    """

    middle: Decimal
    spread: Decimal
    spot: float  # of the underlying then
    narrow_ns: int
    confirmed: Decimal | None = None  # by two figures a second apart
    doubted: Decimal | None = None  # the newest figure, which the next one has to agree with
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
    marks: dict[str, Decimal] = {}  # last confirmed price, USD: of a desk's shares, of the options held
    basket: BasketState = BasketState()
    shadow: ShadowState = ShadowState()
    leaps: dict[str, Leap] = {}  # prices that are not accepted yet
    wanted: dict[str, Quantity] = {}  # what the desk last decided to hold of a symbol that it entered or left
    doubted: Bar | None = None  # a bar whose prices leap, until quotes or the next bar decide
    ladder: LadderState | msgspec.UnsetType = msgspec.UNSET  # not encoded until a version climbs
    worths: dict[str, Worth] | msgspec.UnsetType = msgspec.UNSET  # of held options; not encoded while there is none
    claim: ClaimState | msgspec.UnsetType = msgspec.UNSET  # not encoded until a model with a claim about risk answers

    @property
    def exposed(self) -> bool:
        """Whether the desk holds something, or has an order of its own at work."""
        return bool(self.book.positions) or any(order.purpose != "foreign" for order in self.orders.values())


_ENCODER = msgspec.json.Encoder(enc_hook=to_json)  # dicts keep their order, which is part of the state


def encode_state(state: State[Any]) -> bytes:
    """Return the canonical JSON of a state: equal states give equal bytes."""
    return _ENCODER.encode(state)


def digest(state: State[Any]) -> str:
    """Return the SHA-256 of the canonical JSON, as 64 hex digits."""
    return hashlib.sha256(encode_state(state)).hexdigest()
