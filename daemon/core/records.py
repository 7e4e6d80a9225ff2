"""Rows of the read models: tables in the journal for plain SQL queries.

One frozen struct for each table; fields are the columns in their order, the first `KEY` of them the primary key. Rows
follow from events alone, so verify rebuilds and compares them. Money is text (exact decimals), times nanoseconds UTC.
"""

from __future__ import annotations

from typing import ClassVar

import msgspec

from strategies.kit.quantity import Quantity


class DecisionRow(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One decision of the policy, or of a rule (`kind` "rule": a stop, the flatten) that left a position.

    Times are nanoseconds UTC; what is JSON is text.
    """

    TABLE: ClassVar[str] = "decisions"
    KEY: ClassVar[int] = 1

    decision: int
    kind: str
    bar_ns: int
    time_ns: int
    action: str | None = None  # as chosen; for rules the reason
    resolved: str | None = None  # after resolution against the position
    confidence: float | None = None
    probabilities: str | None = None  # JSON array
    logits: str | None = None  # JSON array
    target: str | None = None  # JSON
    gates: str | None = None  # JSON: gate -> "" passed, text denied, null not asked
    work: str | None = None  # orders.work that it started
    outcome: str  # hold, ordered, exit, denied, expired, failed
    model: str | None = None
    row: bytes | None = None  # the newest feature row, float32 little endian


class HeadRow(msgspec.Struct, frozen=True, gc=False):
    """A policy's heads for one symbol at a decision, and the weight that the decision wants.

    One row without a symbol where the policy answers for all at once.
    """

    TABLE: ClassVar[str] = "heads"
    KEY: ClassVar[int] = 2

    decision: int
    symbol: str
    time_ns: int
    answer: str  # JSON: the symbol's number of the answer, or its numbers; all of them where there is no symbol
    heads: str  # JSON: head -> number, or numbers
    weight_before: float | None  # part of the equity at the last known prices; None without a symbol or a price
    weight_after: float | None  # the same, where all that is wanted is traded at these prices
    note: str  # why the strategy leaves the symbol alone, "" where it does not


class ChoiceRow(msgspec.Struct, frozen=True, gc=False):
    """The action taken for one symbol, where a policy chooses one for each: drawn among those allowed.

    Actions are names after resolution. `behaviour` has the probability of each of the spec's actions, in their order.
    """

    TABLE: ClassVar[str] = "choices"
    KEY: ClassVar[int] = 2

    decision: int
    symbol: str
    time_ns: int
    greedy: str  # action with the largest value
    drawn: str
    behaviour: str  # JSON array
    allowed: str  # JSON array of names


class OverlayRow(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """The risk overlay's effect on a decision. Parts of the equity at the last known prices; None: unknown."""

    TABLE: ClassVar[str] = "overlays"
    KEY: ClassVar[int] = 1

    decision: int
    time_ns: int
    forecast: str  # ewma, har or model
    target: float  # annual volatility
    volatility: float | None  # annual forecast of the portfolio as asked for, fully invested
    cap: float | None  # most that may be invested
    asked: float | None  # invested by the strategy's goals
    allowed: float | None  # invested under the cap
    cut: str  # JSON: symbol -> [shares requested, shares allowed], where fewer are allowed
    unknown: str  # why the forecast is unknown, so that nothing is bought; "" if it is known


class BasketRow(msgspec.Struct, frozen=True, gc=False):
    """How close a basket came to its goals, once it ended. Parts of the equity at the last known prices."""

    TABLE: ClassVar[str] = "baskets"
    KEY: ClassVar[int] = 1

    decision: int
    time_ns: int
    apart: float  # sum of absolute differences between the weights held and the decision's
    largest: float  # the largest of them
    symbol: str  # its symbol, "" where there is none


class OrderRow(msgspec.Struct, frozen=True, gc=False):
    """An order as it is now. Times are nanoseconds UTC, amounts USD as text, `side` 1 buys and -1 sells."""

    TABLE: ClassVar[str] = "orders"
    KEY: ClassVar[int] = 1

    client_order_id: str
    work: str
    purpose: str
    reason: str
    symbol: str
    side: int
    quantity: Quantity
    limit_price: str | None  # None: market
    status: str
    filled: Quantity
    cost: str  # sum of price x quantity
    fees_usd: str
    submitted_ns: int
    updated_ns: int


class FillRow(msgspec.Struct, frozen=True, gc=False):
    """One fill; (order, correction, cumulative quantity) is its identity.

    Times are nanoseconds UTC, of the broker (`filled_ns`) and of the event; `price` and `fees_usd` are text, USD.
    """

    TABLE: ClassVar[str] = "fills"
    KEY: ClassVar[int] = 3

    client_order_id: str
    correction: int
    cumulative: Quantity
    symbol: str
    side: int
    quantity: Quantity
    price: str
    fees_usd: str
    filled_ns: int
    time_ns: int


class MoveRow(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """One change of a position, or of the realised profit without one (symbol "", `opened_ns` 0: a fee, a dividend).

    A trade is all rows of one (`opened_ns`, `symbol`). Amounts are USD with the contract's multiplier.
    """

    TABLE: ClassVar[str] = "moves"
    KEY: ClassVar[int] = 4

    opened_ns: int  # of the position
    symbol: str
    seq: int  # of the event
    part: int  # within the event
    at_ns: int  # when it was filled, by the broker's clock
    time_ns: int
    step: str  # enter, add, reduce, leave, or change: the quantity stays
    reason: str  # policy, the rule that requested the order, or another cause of the move
    decision: int | None
    client_order_id: str | None
    quantity: Quantity  # signed change of contracts or shares
    held: Quantity  # afterwards
    multiplier: int
    entered_usd: str  # value bought, at cost
    left_usd: str  # value sold, before fees
    realized_usd: str  # after fees
    fees_usd: str
    pnl_usd: str | None  # realised by the position so far, after fees; None where no position moved


class RoundTripRow(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A step's part of a trade: its moves, or its profit at a new mark. Rows of a key are merged as `MERGED` says.

    Amounts are USD with the contract's multiplier, as numbers: sums of `moves`, whose amounts are exact.
    """

    TABLE: ClassVar[str] = "round_trips"
    KEY: ClassVar[int] = 2
    MERGED: ClassVar[dict[str, str]] = {
        "time_ns": "max(time_ns, excluded.time_ns)",
        "multiplier": "max(multiplier, excluded.multiplier)",
        **{
            name: f"iif(typeof({name}) = 'integer' AND typeof(excluded.{name}) = 'integer', "
            f"{name} + excluded.{name}, exact_plus({name}, excluded.{name}))"
            for name in ("entered", "left_again")
        },
        **{
            name: f"{name} + excluded.{name}"
            for name in (
                "entered_usd",
                "left_usd",
                "realized_usd",
                "fees_usd",
                "fills",
                "bars",
            )
        },
        **{name: f"coalesce({name}, excluded.{name})" for name in ("why_entered", "entry_decision")},
        **{name: f"coalesce(excluded.{name}, {name})" for name in ("left_ns", "why_left", "exit_decision", "now_usd")},
        "worst_usd": "coalesce(min(worst_usd, excluded.worst_usd), worst_usd, excluded.worst_usd)",
        "best_usd": "coalesce(max(best_usd, excluded.best_usd), best_usd, excluded.best_usd)",
    }

    opened_ns: int  # of the position
    symbol: str
    time_ns: int
    multiplier: int = 0
    entered: Quantity = 0  # contracts or shares, negative when short
    left_again: Quantity = 0  # signed: the rest that is held is `entered` + `left_again`
    entered_usd: float = 0.0  # at cost
    left_usd: float = 0.0  # before fees
    realized_usd: float = 0.0  # after fees
    fees_usd: float = 0.0
    fills: int = 0
    bars: int = 0  # observed while held
    left_ns: int | None = None  # when it was flat
    why_entered: str | None = None
    why_left: str | None = None
    entry_decision: int | None = None
    exit_decision: int | None = None
    worst_usd: float | None = None  # realised and unrealised, after fees so far
    best_usd: float | None = None
    now_usd: float | None = None


class EquityRow(msgspec.Struct, frozen=True, gc=False):
    """Equity at a bar's close while positions are open, and at every session's first bar and end.

    Amounts are USD as text; `max_drawdown` is the largest so far, 0.1 is 10 %.
    """

    TABLE: ClassVar[str] = "equity"
    KEY: ClassVar[int] = 1

    time_ns: int
    equity_usd: str
    cash_usd: str
    realized_usd: str
    max_drawdown: float


class ShadowRow(msgspec.Struct, frozen=True, gc=False, kw_only=True):
    """A candidate's answer to a decision's observation, read as the live answer is; no order follows."""

    TABLE: ClassVar[str] = "shadows"
    KEY: ClassVar[int] = 2

    decision: int
    model: str
    bar_ns: int
    time_ns: int
    action: str | None = None  # as chosen
    confidence: float | None = None
    probabilities: str | None = None  # JSON array
    logits: str | None = None  # JSON array
    target: str | None = None  # JSON: what it would hold in the desk's place
    problem: str = ""  # why there is no answer


Row = (
    DecisionRow
    | HeadRow
    | ChoiceRow
    | OverlayRow
    | BasketRow
    | OrderRow
    | FillRow
    | EquityRow
    | ShadowRow
    | MoveRow
    | RoundTripRow
)
ROW_TYPES: tuple[type[Row], ...] = (
    DecisionRow,
    OrderRow,
    FillRow,
    EquityRow,
    ShadowRow,
    HeadRow,
    ChoiceRow,
    OverlayRow,
    BasketRow,
    MoveRow,
    RoundTripRow,
)
