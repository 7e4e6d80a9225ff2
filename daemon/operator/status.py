"""A desk's status in one structure, for every `status` command, the socket and MQTT.

Each field is declared once, with `stated`: what it is computed from, its text for the manual, and its row. Everything
that shows a status follows from that: table, page, JSON, its schema, telemetry and docs/TELEMETRY.md.
Pure: a state in, a structure out. Money is USD as text, times are nanoseconds UTC.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, TypeVar, cast, get_origin, get_type_hints

import msgspec
from msgspec import UNSET, UnsetType

from daemon.core.book import fall_from
from daemon.core.handlers import ACCEPT, waits_for_broker
from daemon.core.limits import Limit
from daemon.core.orders import Order
from daemon.core.paper.state import RecordedState
from daemon.core.risk.claim import fall, volatility
from daemon.core.risk.guards import loss_to_reset
from daemon.core.state import ClaimState, LadderState, Pause, Position, State
from daemon.host.printable import printable
from strategies.kit.quantity import Quantity

NAMED_MOST = 5  # positions named in one line
HALT_MOST = 400  # characters: a halt may name many holdings' differences, and others follow it
BEHIND = "; behind it: "


class Holding(msgspec.Struct, frozen=True):
    """A position: contracts or shares of `symbol`, what was paid for what is held, and the last known mark."""

    symbol: str
    quantity: Quantity
    cost_usd: str
    mark_usd: str  # a share; "" where none is known
    price_usd: str = ""  # average paid a share
    opened_ns: int = 0  # time of its first fill


class WorkingOrder(msgspec.Struct, frozen=True):
    """An order that works at the broker. `limit_usd` is "" at the market; `side` +1 buys, -1 sells.

    `stop_usd` is set for a stop that rests: it sells once the price is there.
    """

    client_order_id: str
    symbol: str
    side: int
    quantity: Quantity
    limit_usd: str
    status: str
    stop_usd: str = ""


class Challenger(msgspec.Struct, frozen=True):
    """The newest version on the ladder, and its step or how it left."""

    version: str
    step: str  # proposed, replay, shadow, canary_10 to canary_100, champion, refused, rolled_back
    champion: str  # version that it is compared with
    size: float  # 0 to 1, part of the desk's size that it trades while it answers
    sessions: int  # on this step


class ClaimStatus(msgspec.Struct, frozen=True):
    """What the model states of its risk, and what the desk did under it. Volatilities are a year's: 0.1 is 10 %."""

    version: str
    volatility: float  # of the newest counted sessions, a window at most
    volatility_low: float
    volatility_high: float
    sessions: int  # sessions counted since this version answers
    left_out: int  # sessions not counted
    window_sessions: int
    drawdown: float  # part of the highest close that is lost now
    drawdown_max: float
    verdict: str  # newest verdict: kept, below, above or drawdown; "" before the first
    broken: str  # why this version takes no new risk, "" where it may
    former: str  # the version to answer again, "" for none


class OptionFills(msgspec.Struct, frozen=True):
    """Fills at recorded option quotes, and at Black-Scholes prices where the minute had no quote."""

    recorded: int
    modelled: int


def challenger_of(state: State[Any]) -> Challenger | None:
    """Return the newest challenger, None where none was ever on the ladder."""
    ladder = state.ladder
    if not isinstance(ladder, LadderState):
        return None
    return Challenger(ladder.version, ladder.step, ladder.champion, ladder.share, ladder.sessions)


def claim_of(state: State[Any]) -> ClaimStatus | None:
    """Return the model's claim about risk and the desk's results; None where it proves no such claim."""
    claim_state = state.claim
    if not isinstance(claim_state, ClaimState) or claim_state.claim is None:
        return None
    claim, broken_claim = claim_state.claim, claim_state.broken.get(claim_state.version)
    return ClaimStatus(
        version=claim_state.version,
        volatility=volatility(claim_state.returns),
        volatility_low=claim.low,
        volatility_high=claim.high,
        sessions=claim_state.sessions,
        left_out=claim_state.left_out,
        window_sessions=claim.window_sessions,
        drawdown=fall(claim_state, state.book),
        drawdown_max=claim.drawdown_max,
        verdict=claim_state.verdict,
        broken="" if broken_claim is None else broken_claim.detail,
        former="" if broken_claim is None else broken_claim.former,
    )


def claim_row(state: State[Any]) -> str:
    """Return the claim and the results in words, "" for none."""
    claim = claim_of(state)
    if claim is None:
        return ""
    range_text = f"stated {claim.volatility_low:.1%} to {claim.volatility_high:.1%}"
    sessions = min(claim.sessions, claim.window_sessions)
    result_text = f"volatility {claim.volatility:.1%} in {sessions} sessions of {claim.window_sessions}, {range_text}"
    text = f"{result_text}; drawdown {claim.drawdown:.1%}, at most {claim.drawdown_max:.1%}"
    return f"BROKEN: {claim.broken}, no new risk until a resume; now {text}" if claim.broken else text


def differences_of(state: State[Any]) -> str:
    """Return the differences between book and broker, "" for none."""
    suspicion = state.broker.suspicion
    return "; ".join(suspicion.differences) if suspicion is not None else ""


def way_out(state: State[Any]) -> str:
    """Return the command that accepts the broker's report as the book; "" where it is not needed."""
    if state.broker.accept_ns:
        then = "; then: rltraderctl resume --reason TEXT" if state.risk.halt is not None else ""
        return f"the book takes over the broker's next report{then}"
    if waits_for_broker(state.broker, state.risk):
        return f"when the account is as it should be: {ACCEPT}; then resume"
    return ""


class Stated(msgspec.Struct, frozen=True):
    """The declaration of a field of a status.

    `row` is its row of `rltraderctl status` and of the page *Now*; "" where a row of several fields has it.
    """

    of: Callable[[State[Any]], Any] | None  # None: not in the state, set by the reader of the desk
    meaning: str  # in the manual
    row: str


_T = TypeVar("_T")


def stated(
    of: Callable[[State[Any]], _T] | None, meaning: str, row: str = "", *, default: _T | UnsetType = UNSET
) -> _T:
    """Declare a field. `default` is its value where it is not known: a new one has it, for older statuses lack it."""
    metadata = {Stated: Stated(of, meaning, row)}
    if isinstance(default, UnsetType):
        return cast(_T, field(metadata=metadata))
    if isinstance(default, dict):
        return cast(_T, field(default_factory=dict, metadata=metadata))
    return field(default=default, metadata=metadata)


@dataclass(frozen=True, slots=True)
class DeskStatus:
    """A desk after event `seq`; every status shows this, and every `--json` of one is this as JSON.

    `halt` and `pause` are "" where there is none, `paused_until_ns` 0: until resumed. `state_dir`, `process`, `limits`,
    `left_alone`, `option_fills`, `tape`, `synthetic` and `alarms` are known only to a reader of the desk's state
    directory. `problem` is "" when all of it could be read.
    """

    desk: str = stated(None, "name of the desk")
    strategy: str = stated(lambda state: state.identity.strategy, "name of the strategy")
    mode: str = stated(lambda state: state.identity.mode, "`paper`, `live`, `dry_run`, `replay` or `recorded`")
    account: str = stated(
        lambda state: " ".join(filter(None, (state.identity.account, state.broker.account))),
        "the broker's account, with its number once the broker has told it",
    )
    seq: int = stated(lambda state: state.seq, "number of the newest event")
    time_ns: int = stated(lambda state: state.now_ns, "its time")
    reconciled: bool = stated(lambda state: state.risk.reconciled, "book and broker agree")
    halt: str = stated(
        lambda state: BEHIND.join(f"{halt.reason}: {halt.detail}" for halt in state.risk.halts),
        'reason and detail of the halt and of those behind it, "" where there is none',
    )
    pause: str = stated(
        lambda state: pause.reason if (pause := _pause(state)) is not None else "",
        'reason of the pause, "" where there is none',
    )
    paused_until_ns: int = stated(
        lambda state: pause.until_ns if (pause := _pause(state)) is not None else 0, "its end; 0: until it is resumed"
    )
    stopping: str = stated(lambda state: state.risk.stopping, 'why the desk is stopping, "" where it is not')
    model: str = stated(
        lambda state: state.model.version if state.model is not None else "", 'version of the model, "" for none'
    )
    model_promoted: bool = stated(
        lambda state: state.model is not None and state.model.promoted, "it may trade real money"
    )
    equity_usd: str = stated(lambda state: f"{state.book.equity:z.2f}", "cash and positions at their newest marks")
    cash_usd: str = stated(lambda state: f"{state.book.cash:z.2f}", "cash of the book")
    realized_usd: str = stated(
        lambda state: f"{state.book.realized:z.2f}", "realised profit after fees since the journal began"
    )
    drawdown: float = stated(
        lambda state: fall_from(state.book.peak, state.book.equity), "fall of the equity from its peak, 0 to 1"
    )
    positions: tuple[Holding, ...] = stated(
        lambda state: tuple(_holding(state, held) for held in state.book.positions.values()), "what is held"
    )
    orders: int = stated(lambda state: sum(order.working for order in state.orders.values()), "how many orders work")
    session: str = stated(
        lambda state: state.session.session.date if state.session.session is not None else "",
        'New York date of the session, "" where none is known',
    )
    session_ended: bool = stated(lambda state: state.session.ended, "it is over")
    last_bar_ns: int = stated(lambda state: state.session.last_bar_ns, "start of the newest bar, 0 for none")
    bars: int = stated(lambda state: state.stats.bars, "bars taken")
    decisions: int = stated(lambda state: state.stats.decisions, "decisions of the policy", "decisions")
    fills: int = stated(lambda state: state.stats.fills, "executions booked")
    differences: str = stated(differences_of, "between book and broker, as the newest report showed them", default="")
    then: str = stated(way_out, "the command that leads out, where there is one", default="")
    last_basket: str = stated(lambda state: state.basket.date, "date of the newest basket that was due", default="")
    state_dir: str = stated(None, "the desk's state directory", default="")
    process: str = stated(None, 'process of the daemon that runs on it, "" for none', default="")
    limits: tuple[Limit, ...] = stated(None, "limits in force, as the newest start journaled them", default=())
    left_alone: dict[str, str] = stated(None, "at the newest decision: symbol to reason", default={})
    problem: str = stated(None, 'why the desk cannot be read, "" where it can', default="")
    challenger: Challenger | None = stated(challenger_of, "the newest version on the ladder", default=None)
    claim: ClaimStatus | None = stated(
        claim_of, "what the model states of its risk beside what the desk did, null where it proves none", default=None
    )
    claim_text: str = stated(claim_row, "the same in words", "risk, stated", default="")
    option_fills: OptionFills | None = stated(
        None, "of a replay with recorded option quotes: fills at recorded and at modelled prices", default=None
    )
    day_usd: str = stated(
        lambda state: f"{state.book.equity - state.book.session_start_equity - state.book.transfers:z.2f}",
        "gain of the session, without transfers",
        default="",
    )
    exposed_usd: str = stated(
        lambda state: f"{sum((_worth(state, held) for held in state.book.positions.values()), Decimal(0)):.2f}",
        "worth of all positions at the newest marks, at cost where none is known",
        default="",
    )
    alarms: int = stated(None, "alarms of the New York day of the newest event", default=0)
    alarm: str = stated(None, "name of the newest of them", default="")
    tape: str = stated(None, "of a replay: its file", default="")
    synthetic: bool = stated(None, "the bars of that file are made up", default=False)
    halt_since_ns: int = stated(
        lambda state: state.risk.halt.since_ns if state.risk.halt is not None else 0,
        "when the halt began, 0 where there is none",
        default=0,
    )
    fees_usd: str = stated(lambda state: f"{state.book.fees:z.2f}", "fees since the journal began", default="")
    working: tuple[WorkingOrder, ...] = stated(
        lambda state: tuple(_working(order) for order in state.orders.values() if order.working),
        "the orders that work at the broker",
        default=(),
    )
    given_up: dict[str, Quantity] = stated(
        lambda state: dict(state.basket.given_up),
        "of the newest basket: symbol to shares that were given up",
        default={},
    )
    bars_rejected: int = stated(lambda state: state.stats.bars_rejected, "bars refused", default=0)
    orders_sent: int = stated(lambda state: state.stats.orders, "orders sent", default=0)
    partial_fills: int = stated(lambda state: state.stats.partial_fills, "fills of a part of an order", default=0)
    trades: int = stated(
        lambda state: state.stats.trades,
        "trades that the desk, an expiry or a company's act closed; `rltraderctl trades` has those of others too",
        default=0,
    )
    wins: int = stated(lambda state: state.stats.wins, "of them with a profit", default=0)
    denials: dict[str, int] = stated(
        lambda state: dict(state.stats.denials), "risk gate to how often it denied", default={}
    )
    loss_to_reset: str = stated(
        loss_to_reset,
        '`daily_loss` or `drawdown`: a resume needs `--reset-limits`; "" where it does not',
        default="",
    )
    limit_base_usd: str = stated(
        lambda state: f"{state.book.guard_base:.2f}" if state.book.guard_base else "",
        "what the limit of the day's loss counts from, where it was reset in the session",
        default="",
    )
    limit_peak_usd: str = stated(
        lambda state: f"{state.book.guard_peak:.2f}" if state.book.guard_peak else "",
        "what the limit of the drawdown counts from, where it was reset below the peak",
        default="",
    )
    blocked: str = stated(
        lambda state: state.broker.blocked,
        'why the broker lets the account trade nothing, "" where it may trade',
        "blocked by the broker",
        default="",
    )


STATED: dict[str, Stated] = {field.name: field.metadata[Stated] for field in dataclasses.fields(DeskStatus)}
"""Field -> its declaration."""
_BLANK = DeskStatus(
    "", "", "", "", 0, 0, False, "", "", 0, "", "", False, "", "", "", 0.0, (), 0, "", False, 0, 0, 0, 0
)


def _pause(state: State[Any]) -> Pause | None:
    """Return the present pause, None without one or after its end."""
    pause = state.risk.pause
    return pause if pause is not None and (not pause.until_ns or state.now_ns < pause.until_ns) else None


def _holding(state: State[Any], position: Position) -> Holding:
    return Holding(
        symbol=position.symbol,
        quantity=position.quantity,
        cost_usd=f"{position.cost * position.multiplier:.2f}",
        mark_usd=_mark(state, position.symbol),
        price_usd=f"{position.cost / position.quantity:.4f}" if position.quantity else "",
        opened_ns=position.opened_ns,
    )


def _working(order: Order) -> WorkingOrder:
    return WorkingOrder(
        client_order_id=order.client_order_id,
        symbol=order.symbol,
        side=order.side,
        quantity=order.quantity,
        limit_usd="" if order.limit_price is None else str(order.limit_price),
        status=order.status,
        stop_usd="" if order.stop_price is UNSET else str(order.stop_price),
    )


def status_of(state: State[Any], desk: str) -> DeskStatus:
    """Return the status of a desk of this name."""
    values = {name: field.of(state) for name, field in STATED.items() if field.of is not None}
    return DeskStatus(desk=desk, **values)


def unreadable_desk(state_dir: str, problem: str) -> DeskStatus:
    """Return the status of a desk whose journal cannot be read."""
    return replace(_BLANK, state_dir=state_dir, problem=problem)


def rows(status: DeskStatus) -> Iterator[tuple[str, str]]:
    """Yield (name, value in words) of each known field with a row of its own."""
    for name, stated_field in STATED.items():
        value = getattr(status, name)
        if stated_field.row and (value or isinstance(value, int)):
            yield stated_field.row, f"{value:,}" if isinstance(value, int | float) else str(value)


def table() -> str:
    """Return the fields as the Markdown table in docs/TELEMETRY.md."""
    hints = get_type_hints(DeskStatus)
    lines = ["| field | type | meaning |", "|---|---|---|"]
    for name, stated_field in STATED.items():
        kind = getattr(hints[name], "__name__", "") if get_origin(hints[name]) is None else str(hints[name])
        lines.append(f"| `{name}` | {_TYPES.get(kind.partition('[')[0], 'object or null')} | {stated_field.meaning} |")
    return "\n".join(lines)


_TYPES = {
    "str": "text",
    "int": "whole number",
    "float": "number",
    "bool": "true or false",
    "tuple": "list",
    "dict": "object",
}


def option_fills_of(market: object) -> OptionFills | None:
    """Return the counts of a paper broker on recorded quotes from its state, None for another broker."""
    if not isinstance(market, RecordedState):
        return None
    return OptionFills(market.fills_recorded, market.fills_modelled)


def trading_in_words(status: DeskStatus) -> tuple[str, bool]:
    """Return what keeps the desk from new risk, else that it is reconciled; and whether it may take new risk."""
    if status.halt:
        return f"halted: {status.halt}", False
    if status.pause:
        return f"paused: {status.pause}", False
    if status.claim is not None and status.claim.broken:
        return f"claim broken: {status.claim.broken}", False
    if not status.reconciled:
        return "not reconciled", False
    if status.blocked:
        return f"blocked by the broker: {status.blocked}", False
    return "reconciled", True


def in_one_line(status: DeskStatus) -> str:
    """Return one line for `systemctl status`."""
    trading, _ = trading_in_words(status)
    basket = f"; last basket {status.last_basket}" if status.last_basket else ""
    orders = f"; {status.orders} orders" if status.orders else ""
    holdings = holdings_in_words(status) or "flat"
    return f"{trading}; {holdings}; equity {status.equity_usd} USD{basket}{orders}; {status.bars} bars"


def holdings_in_words(status: DeskStatus) -> str:
    """Return the first positions by name and the count of the rest; "" for none."""
    return first_named([f"{holding.quantity} {holding.symbol}" for holding in status.positions])


def halts_in_words(halt: str) -> str:
    """Return a status' halts, each with the beginning of its detail."""
    return BEHIND.join(printable(one, HALT_MOST) for one in halt.split(BEHIND))


def first_named(names: Sequence[str]) -> str:
    """Return the first names and the count of the rest; "" for none."""
    more = len(names) - NAMED_MOST
    return ", ".join([*names[:NAMED_MOST], *[f"{more} more"] * (more > 0)])


def needs_accepting(status: DeskStatus) -> bool:
    """Return whether the broker's report has to be accepted first; False once it was, while that report is awaited."""
    return ACCEPT in status.then


def resume_words(loss: str) -> tuple[str, ...]:
    """Return the words of the resume command for a desk with this `loss_to_reset`."""
    return ("resume", "--reset-limits") if loss else ("resume",)


def _mark(state: State[Any], symbol: str) -> str:
    """Return the last known price of a share, or mid of an option's quote; "" without one."""
    mark, quote = state.marks.get(symbol), state.quotes.get(symbol)
    if mark is not None:
        return str(mark)
    return str((quote.bid + quote.ask) / 2) if quote is not None and quote.ask > 0 else ""


def _worth(state: State[Any], position: Position) -> Decimal:
    """Return the value of a position at its mark, without a mark at its cost; USD, never negative."""
    mark = _mark(state, position.symbol)
    return abs(Decimal(mark) * position.quantity if mark else position.cost) * position.multiplier
