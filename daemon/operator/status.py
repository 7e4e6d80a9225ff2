"""A desk's status in one structure, for every `status` command, the socket and MQTT.

Pure: a state in, a structure out. Money is USD as text, times are nanoseconds UTC.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import msgspec
from msgspec.structs import replace

from daemon.core.book import fall_from
from daemon.core.handlers.operator import ACCEPT
from daemon.core.limits import Limit
from daemon.core.paper.state import RecordedState
from daemon.core.risk.guards import loss_to_reset
from daemon.core.state import LadderState, Position, State

NAMED_MOST = 5  # positions that a line names one by one
BY_ACCEPTING = frozenset(("short_position", "reconciliation", "fill_mismatch", "cash_difference"))


class Holding(msgspec.Struct, frozen=True):
    """A position: contracts or shares of `symbol`, what was paid for what is held, and the last known mark."""

    symbol: str
    quantity: int
    cost_usd: str
    mark_usd: str  # a share; "" where none is known
    price_usd: str = ""  # average paid a share
    opened_ns: int = 0  # when what is held was first filled


class WorkingOrder(msgspec.Struct, frozen=True):
    """An order that works at the broker. `limit_usd` is "" at the market; `side` +1 buys, -1 sells."""

    client_order_id: str
    symbol: str
    side: int
    quantity: int
    limit_usd: str
    status: str


class Challenger(msgspec.Struct, frozen=True):
    """The newest version that was put on the ladder, and where it stands or how it left."""

    version: str
    step: str  # proposed, replay, shadow, canary_10 to canary_100, champion, refused, rolled_back
    champion: str  # that it is compared with
    size: float  # 0 to 1, part of the desk's size that it trades while it answers
    sessions: int  # on this step


class OptionFills(msgspec.Struct, frozen=True):
    """Fills at recorded option quotes, and at Black-Scholes prices where the minute had no quote."""

    recorded: int
    modelled: int


class DeskStatus(msgspec.Struct, frozen=True):
    """A desk after event `seq`; every status shows this, and every `--json` of one is this as JSON.

    `halt` and `pause` are "" where there is none, `paused_until_ns` 0: until resumed. `state_dir`, `process`, `limits`,
    `left_alone`, `option_fills`, `tape`, `synthetic` and `alarms` are known only to a reader of the desk's state
    directory. `problem` is "" when all of it could be read.
    """

    desk: str
    strategy: str
    mode: str
    account: str
    seq: int
    time_ns: int
    reconciled: bool
    halt: str
    pause: str
    paused_until_ns: int
    stopping: str
    model: str
    model_promoted: bool
    equity_usd: str
    cash_usd: str
    realized_usd: str
    drawdown: float  # from the peak, 0 to 1
    positions: tuple[Holding, ...]
    orders: int  # working
    session: str  # New York date, "" where none is known
    session_ended: bool
    last_bar_ns: int  # start of the newest bar, 0 for none
    bars: int
    decisions: int
    fills: int
    differences: str = ""  # between book and broker, as the last report showed them
    then: str = ""  # the command that leads out, where there is one
    last_basket: str = ""  # date of the last basket that was due
    state_dir: str = ""
    process: str = ""  # of the daemon that runs on it, "" for none
    limits: tuple[Limit, ...] = ()  # in force, as the newest start journaled them
    left_alone: dict[str, str] = {}  # at the newest decision: symbol to reason
    problem: str = ""
    challenger: Challenger | None = None
    option_fills: OptionFills | None = None  # of a replay with recorded option quotes
    day_usd: str = ""  # gain of `session`, without transfers
    exposed_usd: str = ""  # worth of all positions at the newest marks, at cost where none is known
    alarms: int = 0  # of the New York day of the newest event; `alarm` is the newest one's name
    alarm: str = ""
    tape: str = ""  # of a replay
    synthetic: bool = False  # its bars are made up
    halt_since_ns: int = 0
    fees_usd: str = ""
    working: tuple[WorkingOrder, ...] = ()
    given_up: dict[str, int] = {}  # of the last basket: symbol to shares that were given up
    bars_rejected: int = 0
    orders_sent: int = 0
    partial_fills: int = 0
    trades: int = 0
    wins: int = 0
    denials: dict[str, int] = {}  # gate to how often it denied
    loss_to_reset: str = ""  # daily_loss or drawdown: a resume needs --reset-limits; "" where it does not
    limit_base_usd: str = ""  # that the limit of the day's loss counts from, where it was reset in the session
    limit_peak_usd: str = ""  # that the limit of the drawdown counts from, where it was reset below the peak


_BLANK = DeskStatus(
    "", "", "", "", 0, 0, False, "", "", 0, "", "", False, "", "", "", 0.0, (), 0, "", False, 0, 0, 0, 0
)


def unreadable_desk(state_dir: str, problem: str) -> DeskStatus:
    """The status of a desk whose journal cannot be read."""
    return replace(_BLANK, state_dir=state_dir, problem=problem)


def status_of(state: State[Any], desk: str) -> DeskStatus:
    """Return the status of a desk of this name."""
    book, risk, session = state.book, state.risk, state.session
    pause = risk.pause
    paused = pause is not None and (not pause.until_ns or state.now_ns < pause.until_ns)
    return DeskStatus(
        desk=desk,
        strategy=state.identity.strategy,
        mode=state.identity.mode,
        account=" ".join(filter(None, (state.identity.account, state.broker.account))),
        seq=state.seq,
        time_ns=state.now_ns,
        reconciled=risk.reconciled,
        halt=f"{risk.halt.reason}: {risk.halt.detail}" if risk.halt is not None else "",
        pause=pause.reason if paused and pause is not None else "",
        paused_until_ns=pause.until_ns if paused and pause is not None else 0,
        stopping=risk.stopping,
        model=state.model.version if state.model is not None else "",
        model_promoted=state.model is not None and state.model.promoted,
        equity_usd=f"{book.equity:.2f}",
        cash_usd=f"{book.cash:.2f}",
        realized_usd=f"{book.realized:.2f}",
        drawdown=fall_from(book.peak, book.equity),
        positions=tuple(
            Holding(
                symbol=p.symbol,
                quantity=p.quantity,
                cost_usd=f"{p.cost * p.multiplier:.2f}",
                mark_usd=_mark(state, p.symbol),
                price_usd=f"{p.cost / p.quantity:.4f}" if p.quantity else "",
                opened_ns=p.opened_ns,
            )
            for p in book.positions.values()
        ),
        orders=sum(order.working for order in state.orders.values()),
        session=session.session.date if session.session is not None else "",
        session_ended=session.ended,
        last_bar_ns=session.last_bar_ns,
        bars=state.stats.bars,
        decisions=state.stats.decisions,
        fills=state.stats.fills,
        differences=differences_of(state),
        then=way_out(state),
        last_basket=state.basket.date,
        challenger=challenger_of(state),
        day_usd=f"{book.equity - book.session_start_equity - book.transfers:.2f}",
        exposed_usd=f"{sum((_worth(state, held) for held in book.positions.values()), Decimal(0)):.2f}",
        halt_since_ns=risk.halt.since_ns if risk.halt is not None else 0,
        fees_usd=f"{book.fees:.2f}",
        working=tuple(
            WorkingOrder(
                client_order_id=order.client_order_id,
                symbol=order.symbol,
                side=order.side,
                quantity=order.quantity,
                limit_usd="" if order.limit_price is None else str(order.limit_price),
                status=order.status,
            )
            for order in state.orders.values()
            if order.working
        ),
        given_up=dict(state.basket.given_up),
        bars_rejected=state.stats.bars_rejected,
        orders_sent=state.stats.orders,
        partial_fills=state.stats.partial_fills,
        trades=state.stats.trades,
        wins=state.stats.wins,
        denials=dict(state.stats.denials),
        loss_to_reset=loss_to_reset(state),
        limit_base_usd=f"{book.guard_base:.2f}" if book.guard_base else "",
        limit_peak_usd=f"{book.guard_peak:.2f}" if book.guard_peak else "",
    )


def option_fills_of(market: object) -> OptionFills | None:
    """Return the counts of a paper broker on recorded quotes from its state, None for any other."""
    if not isinstance(market, RecordedState):
        return None
    return OptionFills(market.fills_recorded, market.fills_modelled)


def challenger_of(state: State[Any]) -> Challenger | None:
    """Return where the newest challenger stands, None where none was ever put on the ladder."""
    ladder = state.ladder
    if not isinstance(ladder, LadderState):
        return None
    return Challenger(ladder.version, ladder.step, ladder.champion, ladder.share, ladder.sessions)


def in_one_line(status: DeskStatus) -> str:
    """Return one line for `systemctl status`."""
    trading = f"halted: {status.halt}" if status.halt else "reconciled" if status.reconciled else "not reconciled"
    basket = f"; last basket {status.last_basket}" if status.last_basket else ""
    orders = f"; {status.orders} orders" if status.orders else ""
    held = holdings_in_words(status) or "flat"
    return f"{trading}; {held}; equity {status.equity_usd} USD{basket}{orders}; {status.bars} bars"


def holdings_in_words(status: DeskStatus) -> str:
    """Return the first positions by name and the count of the rest; "" for none."""
    named = [f"{held.quantity} {held.symbol}" for held in status.positions[:NAMED_MOST]]
    more = len(status.positions) - NAMED_MOST
    return ", ".join(named + [f"{more} more"] * (more > 0))


def resume_words(loss: str) -> tuple[str, ...]:
    """Return the words of the resume that a desk with this `loss_to_reset` takes."""
    return ("resume", "--reset-limits") if loss else ("resume",)


def differences_of(state: State[Any]) -> str:
    """Return the differences between book and broker, "" for none."""
    suspicion = state.broker.suspicion
    return "; ".join(suspicion.differences) if suspicion is not None else ""


def way_out(state: State[Any]) -> str:
    """Return the command that accepts the broker's report as the book; "" where it is not needed."""
    broker, halt = state.broker, state.risk.halt
    if broker.accept_ns:
        return "the book takes over the broker's next report; then: rltraderctl resume --reason TEXT"
    standing = broker.suspicion is not None and halt is not None
    if broker.stood_down or standing or (halt is not None and halt.reason in BY_ACCEPTING):
        return f"when the account is as it shall be: {ACCEPT}; then resume"
    return ""


def _mark(state: State[Any], symbol: str) -> str:
    """The last known price of a share, or mid of an option's quote; "" where there is neither."""
    mark, quote = state.marks.get(symbol), state.quotes.get(symbol)
    if mark is not None:
        return str(mark)
    return str((quote.bid + quote.ask) / 2) if quote is not None and quote.ask > 0 else ""


def _worth(state: State[Any], held: Position) -> Decimal:
    """What a position is worth at its mark, without one what was paid for it; USD, never negative."""
    mark = _mark(state, held.symbol)
    return abs(Decimal(mark) * held.quantity if mark else held.cost) * held.multiplier
