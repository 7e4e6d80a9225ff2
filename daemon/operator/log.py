"""Structured log events, each declared once with its level, fields and meaning.

JSON lines on standard error, pretty on a terminal. Telemetry reads steps and never stops trading. `LOG_EVENTS` is the
whole vocabulary; `rltraderctl reference log-events` prints it. A thread writes it, so that a stalled reader stops no
trading.
"""

from __future__ import annotations

import contextlib
import io
import json
import queue
import sys
import threading
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass, field
from decimal import Decimal
from functools import partial
from typing import Any, TextIO, cast

import msgspec
import structlog

from daemon.core.effects import AnyEffect, AskPolicy, CancelOrder, RaiseAlarm, SubmitOrder
from daemon.core.events import (
    BarClosed,
    BrokerLost,
    BrokerReported,
    ClaimJudged,
    Event,
    LadderMoved,
    ModelPromoted,
    OrderFilled,
    OrderRejected,
    PolicyAnswered,
    QuotesReceived,
    SessionEnded,
    SessionScheduled,
)
from daemon.core.moves import LEAVE, REDUCE, left_of
from daemon.core.records import BasketRow, DecisionRow, MoveRow
from daemon.core.session import new_york_text
from daemon.core.state import Halt
from daemon.core.step import Step
from daemon.host.printable import printable
from daemon.operator.log_events import LOG_EVENTS
from strategies.kit.quantity import Quantity
from strategies.kit.units import SECOND_NS

_SILENT = frozenset((BarClosed, QuotesReceived, PolicyAnswered))
PRICE_GRID = Decimal("0.0001")
EACH_ORDER = frozenset(("order_submitted", "order_cancel_requested", "order_filled"))  # of a daily desk: at debug
EACH_REQUEST = EACH_ORDER - {"order_filled"}  # the same on a terminal, where a person sees the fills
NOTHING: frozenset[str] = frozenset()
LINE_MOST = 100_000  # characters of a value on a terminal
LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


@dataclass(slots=True)
class _BasketTotals:
    """Orders, fills and costs of a daily desk in this process since its session was scheduled."""

    orders: int = 0
    fills: int = 0
    usd: dict[int, Decimal] = field(default_factory=lambda: {1: Decimal(0), -1: Decimal(0)})  # by side
    costs_usd: dict[str, Decimal] = field(default_factory=dict)  # by order: cumulative


def _printable_line(_: object, __: str, line: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
    """Return foreign text for a terminal, without line breaks and control codes, which JSON escapes by itself."""
    return {name: printable(value, LINE_MOST) if isinstance(value, str) else value for name, value in line.items()}


class Log:
    """Writes declared events. Raises ValueError for an undeclared one or other fields: a bug, found by the tests."""

    def __init__(
        self,
        level: str = "info",
        style: str = "auto",
        stream: TextIO | io.TextIOBase | None = None,
        also: Callable[[str], bool] = lambda _: False,  # whether an event of this name is written below the level
        quiet_events: frozenset[str] = frozenset(),  # events that the program shows otherwise: written at debug
    ) -> None:
        stream = cast(TextIO, stream if stream is not None else sys.stderr)
        pretty = style == "pretty" or (style == "auto" and stream.isatty())
        times = structlog.processors.TimeStamper("%Y-%m-%d %H:%M:%S" if pretty else "iso", utc=not pretty)
        processors: list[Any] = [times, structlog.processors.add_log_level]
        if pretty:
            processors += [
                _printable_line,
                structlog.dev.ConsoleRenderer(pad_event_to=22, colors=stream.isatty(), sort_keys=False),
            ]
        else:
            processors.append(structlog.processors.JSONRenderer())
        self._threshold, self._also, self._quiet_events = LEVELS[level], also, quiet_events
        self._agreed_before = False
        self._basket_totals = _BasketTotals()
        self._exits: dict[tuple[int, str], tuple[Quantity, Decimal]] = {}  # of open trades: quantity, value before fees
        self._quiet = NOTHING  # frequent events of this desk: written at debug
        self._many = EACH_REQUEST if pretty else EACH_ORDER  # a daily desk's
        self.market_time: Callable[[], str] | None = None  # added to each line where the clock is simulated
        self.tape_time = False  # `market_time` follows the steps of a tape
        self.on_event: Callable[[str], None] | None = None  # gets each event's name, at any level; must not raise
        self._logger = structlog.wrap_logger(
            structlog.PrintLogger(stream), processors=processors, wrapper_class=structlog.BoundLogger
        )

    def __call__(self, name: str, /, **fields: object) -> None:
        """Write one event."""
        event = LOG_EVENTS.get(name)
        if event is None or set(fields) != set(event.fields):
            expected = sorted(event.fields) if event else "a name of LOG_EVENTS"
            raise ValueError(f"log event {name!r} with fields {sorted(fields)}: expected {expected}")
        if self.on_event is not None:
            self.on_event(name)
        if self.market_time is not None:
            fields["simulated"] = self.market_time()
        level = "debug" if name in self._quiet | self._quiet_events else event.level
        if LEVELS[level] >= self._threshold or self._also(name):
            with contextlib.suppress(OSError):  # no reader is left: that stops no trading
                getattr(self._logger, level)(name, **fields)

    def step(self, event: Event, step: Step) -> None:
        """Log a step: the baskets of a daily desk, each order of other desks."""
        if self.tape_time:
            self.market_time = partial(new_york_text, event.time_ns)
        daily = bool(step.state.basket.date)
        self._quiet = self._many if daily else NOTHING
        if type(event) not in _SILENT:
            self._event(event, step, daily=daily)
        for effect in step.effects:
            if type(effect) is not AskPolicy:
                self._effect(effect, step.state.risk.halt)
        if daily:
            self._log_decisions(step)
            self._log_basket_goals(step)
        for row in step.rows:
            if type(row) is MoveRow and row.opened_ns:
                self._log_exit(row)

    def _event(self, event: Event, step: Step, *, daily: bool) -> None:
        match event:
            case SessionScheduled():
                self._basket_totals = _BasketTotals()
                self("session_started", date=event.session.date, equity_usd=str(step.state.book.equity))
            case SessionEnded():
                if daily:
                    self._log_basket_trades(event.date, step)
                book, stats = step.state.book, step.state.stats
                self(
                    "session_ended",
                    date=event.date,
                    equity_usd=str(book.equity),
                    realized_usd=str(book.realized),
                    trades=stats.trades,
                )
            case OrderFilled():
                self._basket_totals.fills += 1
                self._basket_totals.usd[event.side] += event.price * event.quantity
                self._basket_totals.costs_usd[event.client_order_id] = event.cumulative_fees
                self(
                    "order_filled",
                    client_order_id=event.client_order_id,
                    symbol=event.symbol,
                    side=event.side,
                    cumulative_quantity=event.cumulative_quantity,
                    price=str(event.price),
                )
            case OrderRejected():
                self("order_rejected", client_order_id=event.client_order_id, reason=event.reason)
            case BrokerReported() | BrokerLost():
                self._agreement(step)
            case ModelPromoted():
                self("model_activated", version=event.version, previous=event.previous, promoted=event.promoted)
            case ClaimJudged():
                self(
                    "claim_judged",
                    version=event.version,
                    verdict=event.verdict,
                    detail=event.detail,
                    consequence=event.consequence,
                    former=event.former,
                )
            case LadderMoved():
                self(
                    "ladder_moved",
                    version=event.version,
                    from_step=event.from_step,
                    to_step=event.to_step,
                    sessions=event.sessions,
                    reason=event.reason,
                    detail=event.detail,
                )

    def _effect(self, effect: AnyEffect, halt: Halt | None) -> None:
        match effect:
            case RaiseAlarm() if halt is not None and (halt.reason, halt.detail) == (effect.name, effect.detail):
                self("halted", reason=halt.reason, detail=halt.detail)
            case RaiseAlarm():
                self("alarm", alarm=effect.name, detail=effect.detail)
            case SubmitOrder():
                self._basket_totals.orders += 1
                self(
                    "order_submitted",
                    client_order_id=effect.client_order_id,
                    symbol=effect.symbol,
                    side=effect.side,
                    quantity=effect.quantity,
                    limit_price=None if effect.limit_price is None else str(effect.limit_price),
                    intent=effect.intent,
                )
            case CancelOrder():
                self("order_cancel_requested", client_order_id=effect.client_order_id)

    def _log_exit(self, row: MoveRow) -> None:
        """Sum up a trade's exits; log it with the last one."""
        key = row.opened_ns, row.symbol
        exits_before, value = self._exits.pop(key, (0, Decimal(0)))
        quantity, value = exits_before - left_of(row), value + Decimal(row.left_usd)
        if row.step != LEAVE:
            # the busted exit may be from before a restart
            if quantity and (exits_before or row.step == REDUCE):
                self._exits[key] = quantity, value
            return
        self(
            "trade_closed",
            symbol=row.symbol,
            quantity=abs(quantity),
            price=f"{(value / (quantity * row.multiplier)).quantize(PRICE_GRID).normalize():f}" if quantity else None,
            pnl_usd=None if row.pnl_usd is None else f"{Decimal(row.pnl_usd):+.2f}",
            held_s=(row.at_ns - row.opened_ns) // SECOND_NS,
            reason=row.reason,
            decision=row.decision,
        )

    def _log_decisions(self, step: Step) -> None:
        for row in step.rows:
            if isinstance(row, DecisionRow) and row.kind == "policy":
                legs = len(msgspec.json.decode(row.target)) if row.target else 0
                self(
                    "basket_decided",
                    date=step.state.basket.date,
                    decision=row.decision,
                    action=row.action,
                    outcome=row.outcome,
                    legs=legs,
                )

    def _log_basket_goals(self, step: Step) -> None:
        for row in step.rows:
            if isinstance(row, BasketRow):
                self(
                    "basket_reached",
                    decision=row.decision,
                    apart=round(row.apart, 6),
                    largest=round(row.largest, 6),
                    symbol=row.symbol,
                )

    def _log_basket_trades(self, date: str, step: Step) -> None:
        totals, basket = self._basket_totals, step.state.basket
        given_up = basket.given_up if basket.date == date else {}
        if totals.orders or totals.fills or given_up:
            self(
                "basket_traded",
                date=date,
                orders=totals.orders,
                fills=totals.fills,
                bought_usd=str(totals.usd[1]),
                sold_usd=str(totals.usd[-1]),
                costs_usd=str(sum(totals.costs_usd.values(), Decimal(0))),
                given_up=given_up,
            )

    def _agreement(self, step: Step) -> None:
        """Log when book and broker begin to agree."""
        agree, book = step.state.risk.reconciled, step.state.book
        if agree and not self._agreed_before:
            position_texts = [f"{position.quantity} {symbol}" for symbol, position in book.positions.items()]
            self("reconciled", equity_usd=str(book.equity), positions=position_texts)
        self._agreed_before = agree


CAPACITY = 10_000  # lines
SHUTDOWN_TIMEOUT_S = 2.0  # to write the last lines


class LossyStream(io.TextIOBase):
    """A text stream that passes its lines to another one."""

    def __init__(self, target: TextIO, capacity: int = CAPACITY) -> None:
        self._target = target
        self._lines: queue.Queue[str | None] = queue.Queue(capacity)
        self._part = ""
        self._lost_count = 0  # counted by the writers
        self._reported_count = 0  # counted by the thread
        self._thread = threading.Thread(target=self._run, name="log", daemon=True)
        self._thread.start()

    @property
    def dropped(self) -> int:
        """Lines that were lost and not reported yet."""
        return self._lost_count - self._reported_count

    def isatty(self) -> bool:
        """Return what the stream behind it returns."""
        return self._target.isatty()

    def write(self, text: str) -> int:
        """Accept text; whole lines go to the thread, or are dropped when too many wait."""
        *lines, self._part = (self._part + text).split("\n")
        for line in lines:
            try:
                self._lines.put_nowait(line + "\n")
            except queue.Full:
                self._lost_count += 1
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread flushes."""

    def finish(self, deadline_s: float = SHUTDOWN_TIMEOUT_S) -> None:
        """Write the waiting lines and end, at the latest at the deadline."""
        try:
            self._lines.put(None, timeout=deadline_s)
        except queue.Full:
            return
        self._thread.join(deadline_s)

    def _run(self) -> None:
        while True:
            line = self._lines.get()
            try:
                if line is not None:
                    self._target.write(line)
                if lost_count := self.dropped:
                    self._reported_count += lost_count
                    self._target.write(
                        json.dumps({"event": "log_dropped", "lines": lost_count, "level": "warning"}) + "\n"
                    )
                self._target.flush()
            except (OSError, ValueError):  # no reader is left: that stops no trading
                pass
            if line is None:
                return
