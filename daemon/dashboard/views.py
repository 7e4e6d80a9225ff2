"""Data of the dashboard's pages: one structure for each answer of its API. The browser gets nothing else.

Every number is in the journal or follows from it by the step. Money is a number in USD if it is drawn, text if it is
read. Times are seconds since 1970 UTC (float), 0 for never.
"""

from __future__ import annotations

import msgspec

from daemon.journal.trades import Totals
from daemon.reports.decision import DecisionHeads
from daemon.reports.performance.figures import Performance
from strategies.kit.quantity import Quantity


class DeskLine(msgspec.Struct, frozen=True):
    """`GET /api/desks`: a line for each desk of this dashboard."""

    name: str
    strategy: str
    mode: str
    running: bool
    problem: str  # why its journal cannot be read, "" if readable


class GateLine(msgspec.Struct, frozen=True):
    """A gate's present result for a new entry. `state`: passes, denies, or unknown (it needs an order to judge).

    A gate that passes has a `reason` if it is not needed.
    """

    name: str
    state: str
    reason: str
    ends: float = 0.0  # end of a cooldown or a pause


class PositionLine(msgspec.Struct, frozen=True):
    """A position. Prices are USD a share; `stop` and `target` 0 if the desk has none, `rests` 0 if none rests."""

    symbol: str
    quantity: Quantity
    entry: float
    mark: float
    pnl_usd: float  # unrealised
    opened: float
    stop: float = 0.0
    target: float = 0.0
    rests: float = 0.0  # price of the stop that rests at the broker
    value_usd: float = 0.0  # at the mark
    entered: Quantity = 0  # in total since it was opened, 0 if unknown
    realised_usd: float = 0.0  # by the parts already closed, and fees
    weight: float | None = None  # of the equity, None unless that is positive


class OpenOrder(msgspec.Struct, frozen=True):
    """A working order at the broker."""

    client_order_id: str
    symbol: str
    side: int
    quantity: Quantity
    filled: Quantity
    limit: float  # 0: market
    status: str
    submitted: float
    resting: bool = False  # a stop; `stop` is its price if known
    stop: float = 0.0


class Share(msgspec.Struct, frozen=True):
    """An action and its probability; of a continuous policy the action's value in [-1, 1]."""

    action: str
    value: float


class Now(msgspec.Struct, frozen=True):
    """`GET /api/now`, and each message of `GET /api/stream`: the desk at its newest journaled event."""

    desk: str
    strategy: str
    mode: str
    account: str
    running: bool
    seq: int
    time: float  # market time of the newest event
    read_at: float  # when the dashboard read it, this host's clock
    stale: str  # why the data may be old or cannot be followed, "" if live
    reconciled: bool
    halt: str
    pause: str
    session: str
    session_open: float
    session_close: float
    session_ended: bool
    last_bar: float  # end of the newest bar; of a daily one the session's close if known
    broker_heard: float  # time of the broker's last full snapshot; 0 with a paper broker
    broker_lost: float  # when its news was last interrupted
    model: str
    promoted: bool
    decision: int  # number of the newest decision, 0 for none
    action: str
    resolved: str
    outcome: str
    confidence: float
    probabilities: tuple[Share, ...]
    gates: tuple[GateLine, ...]
    positions: tuple[PositionLine, ...]
    orders: tuple[OpenOrder, ...]
    equity_usd: str
    cash_usd: str
    realized_usd: str
    day_usd: str  # gain since the session's start
    drawdown: float
    alarms: tuple[AlarmView, ...]  # the newest ones, newest first
    halt_since: float = 0.0
    learns: bool = False  # it explores or has a ladder: it has a learning page
    became: str = ""  # result of the newest decision, as in `DecisionLine`
    why: tuple[str, ...] = ()
    acted: DecisionLine | None = None  # the newest decision with orders
    bars_are_days: bool = False
    claim_broken: str = ""  # how the model broke its risk claim
    rows: tuple[tuple[str, str], ...] = ()  # fields of the status with a row of their own: name, value as text
    raised: tuple[Raised, ...] = ()  # alarms of the newest day, of recorded data those of the run


class AlarmView(msgspec.Struct, frozen=True):
    """One alarm or halt."""

    time: float
    name: str
    detail: str


class Raised(msgspec.Struct, frozen=True):
    """An alarm and its repeats: equal names, with details that differ only in their numbers."""

    name: str
    detail: str  # the newest one
    count: int
    first: float
    time: float  # of the newest


class Candle(msgspec.Struct, frozen=True, array_like=True):
    """`[start, open, high, low, close, volume]`, in JSON an array."""

    time: float
    open: float
    high: float
    low: float
    close: float
    volume: float


class FillMark(msgspec.Struct, frozen=True):
    """A fill on the price chart. `kind`: entry or exit."""

    time: float
    kind: str
    side: int
    text: str
    decision: int


class PricePage(msgspec.Struct, frozen=True):
    """`GET /api/price?session=YYYY-MM-DD&symbol=S`: one session's bars (of a daily desk its last 250 sessions)."""

    symbol: str
    symbols: tuple[str, ...]
    session: str
    sessions: tuple[str, ...]  # all of the journal, newest last
    bars: tuple[Candle, ...]
    marks: tuple[FillMark, ...]


class MarkGroup(msgspec.Struct, frozen=True):
    """Fills of one kind within one bucket of the chart. `text` and `decision` are the newest fill's."""

    time: float  # of the bucket
    kind: str  # entry or exit
    count: int
    text: str
    decision: int


class Pane(msgspec.Struct, frozen=True):
    """Numbers under the price: a feature as the policy saw it, an indicator, or a contract's own price."""

    name: str
    meaning: str
    times: tuple[float, ...]
    values: tuple[float, ...]
    overlay: bool = False  # drawn over the price, in its unit


class BarsPage(msgspec.Struct, frozen=True):
    """`GET /api/bars?symbol=S&from=S&to=S&session=DATE&trade=next|previous&at=S&points=N&step=S&panes=A,B`.

    Buckets of a span and as many bars on both sides, at most 2,000. Times are seconds since 1970 UTC.
    """

    symbol: str
    symbols: tuple[str, ...]
    first: float  # start of the journal's first and newest bar, 0 without any
    last: float
    begin: float  # start of the first visible and of the last visible bucket
    end: float
    step: int  # length of a bucket in seconds, 0: the bars themselves
    length: str  # the length as a text, "" if unknown
    bars: tuple[Candle, ...]
    marks: tuple[MarkGroup, ...]
    fills: tuple[FillMark, ...]  # within the visible span, the newest first, at most 200
    fills_seen: int
    panes: tuple[Pane, ...]
    names: tuple[str, ...]  # of the available panes
    sessions: tuple[str, ...] = ()  # of bars within a day: dates, oldest first, if requested (`sessions=1`)
    trade: TradeLine | None = None  # the trade chosen with next or previous
    contract: Pane | None = None  # the traded contract's own price, if the visible span is short enough
    days: bool = False  # a bucket is a day or longer


class EquityPage(msgspec.Struct, frozen=True):
    """`GET /api/equity`: the equity curve, at most 1,000 points, and the drawdown at each."""

    times: tuple[float, ...]
    equity: tuple[float, ...]
    drawdown: tuple[float, ...]


class DecisionLine(msgspec.Struct, frozen=True):
    """A decision in a line. `outcome` is `no_change` without an order, `became` the result of its orders: filled,
    partly_filled, not_filled, working, trimmed, exited, else the outcome (`daemon.journal.outcomes`).
    """

    decision: int
    time: float
    bar: float
    kind: str
    action: str
    resolved: str
    confidence: float
    outcome: str
    denied_by: tuple[str, ...]
    model: str
    traded: str = ""  # purchases and sales of its orders, as a text
    realised_usd: float | None = None  # by its fills after their fees; None without a fill
    closed_usd: float | None = None  # P&L of the round trips that it closed, with the fees of their entries
    became: str = ""
    why: tuple[str, ...] = ()  # why it had no further effect, in sentences


class DecisionsPage(msgspec.Struct, frozen=True):
    """`GET /api/decisions?before=N&limit=50&outcome=…&day=DATE`, newest first. `total`: all that match, if counted."""

    lines: tuple[DecisionLine, ...]
    total: int | None
    of: int  # decisions with any outcome


class TradeLine(msgspec.Struct, frozen=True):
    """A round trip. Amounts are USD after fees, prices USD a share; None if unknown, or not yet."""

    what: str  # the instrument as a text
    symbol: str
    side: str  # long, short, call or put
    quantity: Quantity  # entered in total
    held: Quantity  # still held
    entered: float
    left: float  # 0 while open
    held_s: float
    bars: int | None
    entry: float | None  # average
    exit: float | None  # while open: of the parts closed so far
    pnl_usd: float | None  # of an open one at the newest mark
    pnl_percent: float | None
    realised_usd: float
    unrealised_usd: float | None  # of the part still held
    worst_usd: float | None
    worst_percent: float | None
    best_usd: float | None
    best_percent: float | None
    why_entered: str
    confidence: float | None
    why_left: str
    entry_decision: int  # 0 for none
    exit_decision: int
    more: dict[str, str]  # values as text of the columns of `TradesPage`


class TradesPage(msgspec.Struct, frozen=True):
    """`GET /api/trades?symbol=S&from=DATE&to=DATE&side=…&result=…&sort=…&offset=N&limit=50`, and the sums of all."""

    trades: tuple[TradeLine, ...]
    totals: Totals
    columns: tuple[TradeColumn, ...]  # other columns than those that the page combines


class TradeColumn(msgspec.Struct, frozen=True):
    """A declared column for display."""

    name: str
    heading: str
    meaning: str
    number: bool


class AroundPage(msgspec.Struct, frozen=True):
    """`GET /api/around/N?symbol=S`: the price around a decision, its fills, and the trades that it affected."""

    symbol: str
    symbols: tuple[str, ...]  # those that the decision traded first, then those held
    bars: tuple[Candle, ...]
    marks: tuple[FillMark, ...]
    trades: tuple[TradeLine, ...]


class PerformancePage(msgspec.Struct, frozen=True):
    """`GET /api/performance?range=1M&benchmark=S`: the figures of a range that ends with the newest recorded day."""

    range: str
    symbols: tuple[str, ...]  # with bars, so they can be benchmarks
    benchmark: str  # one of them, or ""
    figures: Performance  # without weeks; the newest days and the deepest drawdowns
    falls: int  # count of all drawdowns


class Contribution(msgspec.Struct, frozen=True):
    """Change of the chosen action's logit (of a continuous policy: its largest action) without an input.

    Occlusion (Zeiler and Fergus 2014): one input at a time is replaced by `baseline`, and the change is drawn. `cells`
    has the observation's shape, `features` the same with a feature's whole column replaced at once.
    """

    method: str  # "occlusion"
    of: str  # which output: an action, a symbol, or an action of a symbol ("BUY SPY")
    baseline: str  # replacement of an occluded input, as a text
    cells: tuple[tuple[float, ...], ...]
    features: tuple[float, ...]


class OrderLine(msgspec.Struct, frozen=True):
    """An order of a decision, with its fills as `(time, quantity, price, fees)`."""

    client_order_id: str
    symbol: str
    side: int
    quantity: Quantity
    limit: float
    status: str
    filled: Quantity
    submitted: float
    fills: tuple[tuple[float, Quantity, float, float], ...]
    resting: bool = False  # a resting stop


class DecisionPage(msgspec.Struct, frozen=True):
    """`GET /api/decision/N`: one decision in full. `rows` is the observation; of daily desks one row of all inputs.

    If rows are symbols: the newest values of the symbols with the largest answers, named `feature SYMBOL`. `pending`:
    observation and contributions are still being computed: ask again. `missing`: why there are none.
    """

    line: DecisionLine
    previous: int  # 0 for none
    next: int
    features: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]
    probabilities: tuple[Share, ...]
    logits: tuple[float, ...]
    target: str
    gates: tuple[GateLine, ...]
    orders: tuple[OrderLine, ...]
    contribution: Contribution | None
    pending: bool
    missing: str
    shadow: Shadowed | None
    heads: DecisionHeads | None = None  # the policy's heads by symbol
    overlay: tuple[str, ...] = ()  # effect of the risk overlay, in sentences


class Shadowed(msgspec.Struct, frozen=True):
    """A candidate's answer to the same question."""

    model: str
    action: str
    confidence: float
    agrees: bool
    problem: str


class ModelLine(msgspec.Struct, frozen=True):
    """A version of the store."""

    version: str
    current: bool
    candidate: bool
    running: bool  # it is the model of the desk's state
    promoted: bool
    trained_on: str
    last_session: str
    metrics: tuple[tuple[str, str], ...]
    problem: str  # why it cannot be read
    verdict: str = ""  # of its training, from the manifest's note
    claim: str = ""  # its claim, or why this desk claims no risk with it
    absent: bool = False  # not in the store


class ShadowSummary(msgspec.Struct, frozen=True):
    """A candidate compared with the live model, over the decisions that both answered."""

    model: str
    decisions: int
    agreement: float
    confidence_live: float
    confidence_shadow: float
    failures: int


class ModelsPage(msgspec.Struct, frozen=True):
    """`GET /api/models`."""

    store: str
    versions: tuple[ModelLine, ...]
    shadows: tuple[ShadowSummary, ...]
    swaps: tuple[AlarmView, ...]  # activations and refusals in the journal, newest first
    live: bool = False  # the desk runs: the model of its state answers now, else it answered last


class LimitLine(msgspec.Struct, frozen=True):
    """A limit of the risk rules and its use; `share` is 0 to 1, or above."""

    name: str
    value: str
    limit: str
    share: float


class RiskPage(msgspec.Struct, frozen=True):
    """`GET /api/risk`."""

    gates: tuple[GateLine, ...]
    limits: tuple[LimitLine, ...]
    denials: tuple[tuple[str, int], ...]  # gate and count since the journal began, most first
    alarms: tuple[AlarmView, ...]
    commands: tuple[AlarmView, ...]  # operators' commands, newest first
    raised: tuple[Raised, ...] = ()  # as in `Now`
    earlier: tuple[Raised, ...] = ()  # of a live desk on earlier days
