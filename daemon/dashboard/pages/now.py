"""The desk at its newest journaled event: from the follower's state, else from the read models.

Pure except for that fallback: a picture in, a structure out.
"""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

from msgspec import UnsetType

from daemon.core.book import OPTION_MULTIPLIER
from daemon.core.draft import PROTECTION
from daemon.core.orders import TERMINAL
from daemon.core.risk.guards import trail_of
from daemon.core.session import new_york_text
from daemon.core.state import Position as Held
from daemon.core.state import State
from daemon.dashboard.desks import Picture
from daemon.dashboard.newest import raised_of
from daemon.dashboard.pages.risk import gates_now
from daemon.dashboard.views import Now, OpenOrder, PositionLine, Share
from daemon.journal.reader import JournalReader
from daemon.journal.trade import Trade
from daemon.journal.trades import Wanted, read_trades
from daemon.operator.status import rows, status_of
from strategies.kit.contract import Spec
from strategies.kit.quantity import of_column

ALARMS = 20


def now_of(picture: Picture, reader: JournalReader | None = None) -> Now:
    """`GET /api/now`. `reader` is used only if nothing was followed; then it raises sqlite3.Error."""
    state, spec, row = picture.state, picture.spec, picture.decision or {}
    decision: dict[str, Any] = {
        "decision": row.get("decision") or 0,
        "action": row.get("action") or "",
        "resolved": row.get("resolved") or "",
        "outcome": row.get("shown") or "",
        "confidence": row.get("confidence") or 0.0,
        "probabilities": shares_of(row, spec),
        "became": picture.lines[0].became if picture.lines else "",
        "why": picture.lines[0].why if picture.lines else (),
        "acted": picture.lines[1] if len(picture.lines) > 1 else None,
        "bars_are_days": spec is not None and spec.before_open_ns > 0,
        "alarms": picture.newest.alarms[:ALARMS],
        "raised": raised_of(picture.newest, state, picture.meta.get("mode", ""))[0],
    }
    if state is None or spec is None or not followed(picture):
        return _from_rows(picture, reader, decision)
    status, session = status_of(state, picture.desk), state.session.session
    book = state.book
    return Now(
        desk=picture.desk,
        strategy=status.strategy,
        mode=status.mode,
        account=status.account,
        running=bool(picture.process),
        seq=status.seq,
        time=status.time_ns / 1e9,
        read_at=picture.read_at,
        stale=stale(picture),
        reconciled=status.reconciled,
        halt=status.halt,
        halt_since=status.halt_since_ns / 1e9,
        pause=status.pause,
        session=status.session,
        session_open=session.open_ns / 1e9 if session is not None else 0.0,
        session_close=session.close_ns / 1e9 if session is not None else 0.0,
        session_ended=status.session_ended,
        last_bar=_bar_end(state, spec),
        broker_heard=state.broker.reported_ns / 1e9,
        broker_lost=state.broker.lost_ns / 1e9,
        model=status.model,
        promoted=status.model_promoted,
        gates=gates_now(state),
        positions=tuple(_position(picture, state, spec, position) for position in book.positions.values()),
        orders=tuple(
            OpenOrder(
                client_order_id=name,
                symbol=order.symbol,
                side=order.side,
                quantity=order.quantity,
                filled=order.filled,
                limit=float(order.limit_price or 0),
                status=order.status,
                submitted=order.submitted_ns / 1e9,
                resting=order.purpose == PROTECTION,
                stop=0.0 if isinstance(order.stop_price, UnsetType) else float(order.stop_price),
            )
            for name, order in state.orders.items()
        ),
        equity_usd=status.equity_usd,
        cash_usd=status.cash_usd,
        realized_usd=status.realized_usd,
        day_usd=f"{book.equity - book.session_start_equity - book.transfers:.2f}",
        drawdown=status.drawdown,
        learns=learns(state, spec),
        claim_broken=status.claim.broken if status.claim is not None else "",
        rows=tuple(rows(status)),
        **decision,
    )


def followed(picture: Picture) -> bool:
    """Return whether the state is the journal's; otherwise there is none, or one before the first event."""
    return picture.state is not None and bool(picture.state.seq or not picture.problem)


def learns(state: State[Any], spec: Spec) -> bool:
    """Return whether the desk explores, has a ladder, or has a strategy that a trainer can learn from."""
    return spec.by_row or status_of(state, "").challenger is not None


def shares_of(row: dict[str, Any], spec: Spec | None) -> tuple[Share, ...]:
    """Return a decision's actions with probabilities; of a continuous policy with values."""
    if spec is None:
        return ()
    values = row.get("probabilities") or (row.get("logits") if spec.continuous else None)
    if not values:
        return ()
    return tuple(Share(name, value) for name, value in zip(spec.answers, json.loads(values), strict=False))


def stale(picture: Picture) -> str:
    """Return why the data may be old, "" if it is live."""
    if picture.problem:
        return picture.problem
    if not picture.caught_up:
        return f"catching up with the journal, at event row {picture.last_id}"
    return "" if picture.process else "the desk is stopped; this is its journal's last state"


def _bar_end(state: State[Any], spec: Spec) -> float:
    """Return the newest bar's end: of the newest session's daily bar the close, of an earlier one 16:00 New York."""
    start, session = state.session.last_bar_ns, state.session.session
    if not start:
        return 0.0
    end = start / 1e9 + spec.bar_span_s
    same_day = session is not None and new_york_text(start)[:10] == session.date
    return min(end, session.close_ns / 1e9) if session is not None and same_day else end


def _position(picture: Picture, state: State[Any], spec: Spec, position: Held) -> PositionLine:
    """Mark a position at a share's last price, an option's mid, or its cost if neither is known."""
    entry = position.cost / position.quantity if position.quantity else Decimal(0)
    mark, quote = state.marks.get(position.symbol), state.quotes.get(position.symbol)
    if (position.right or mark is None) and quote is not None and quote.ask > 0:
        mark = (quote.bid + quote.ask) / 2
    if mark is None:
        mark = entry
    value, equity = mark * position.quantity * position.multiplier, state.book.equity
    rests = [
        float(order.stop_price)
        for order in state.orders.values()
        if order.symbol == position.symbol and not isinstance(order.stop_price, UnsetType)
    ]
    sizing, has_stop = state.trading.sizing, bool(position.right) or spec.shares_stopped
    return PositionLine(
        symbol=position.symbol,
        quantity=position.quantity,
        entry=float(entry),
        mark=float(mark),
        pnl_usd=float((mark * position.quantity - position.cost) * position.multiplier),
        opened=position.opened_ns / 1e9,
        stop=max(float(entry) * (1 - sizing.stop_loss), trail_of(position, sizing))
        if has_stop and position.quantity
        else 0.0,
        target=float(entry) * (1 + sizing.take_profit) if has_stop else 0.0,
        rests=max(rests, default=0.0),
        value_usd=float(value),
        entered=picture.entered.get(position.symbol, 0),
        realised_usd=float(position.pnl),
        weight=float(value / equity) if equity > 0 else None,
    )


def _from_rows(picture: Picture, reader: JournalReader | None, decision: dict[str, Any]) -> Now:
    """Return the answer from only the read models: the last recorded money, the open trades and orders."""
    meta, equity = picture.meta, None
    orders: tuple[OpenOrder, ...] = ()
    open_trades: tuple[Trade, ...] = ()
    if reader is not None:
        rows = reader.query("SELECT * FROM equity ORDER BY time_ns DESC LIMIT 1")
        equity = rows[0] if rows else None
        open_trades = read_trades(reader, Wanted(open_only=True)).trades
        placeholders = ",".join("?" * len(TERMINAL))
        working = reader.query(f"SELECT * FROM orders WHERE status NOT IN ({placeholders})", tuple(TERMINAL))
        orders = tuple(
            OpenOrder(
                row["client_order_id"],
                row["symbol"],
                row["side"],
                of_column(row["quantity"]),
                of_column(row["filled"]),
                float(row["limit_price"] or 0),
                row["status"],
                row["submitted_ns"] / 1e9,
                row["purpose"] == PROTECTION,
            )
            for row in working
        )
    row = picture.decision or {}
    return Now(
        desk=picture.desk,
        strategy=meta.get("strategy", ""),
        mode=meta.get("mode", ""),
        account=meta.get("account", ""),
        running=bool(picture.process),
        seq=0,
        time=max(row.get("time_ns") or 0, equity["time_ns"] if equity else 0) / 1e9,
        read_at=picture.read_at,
        stale=stale(picture),
        reconciled=False,
        halt="",
        pause="",
        session="",
        session_open=0.0,
        session_close=0.0,
        session_ended=False,
        last_bar=0.0,
        broker_heard=0.0,
        broker_lost=0.0,
        model=row.get("model") or "",
        promoted=False,
        gates=(),
        positions=tuple(map(_position_of, open_trades)),
        orders=orders,
        equity_usd=equity["equity_usd"] if equity else "",
        cash_usd=equity["cash_usd"] if equity else "",
        realized_usd=equity["realized_usd"] if equity else "",
        day_usd="",
        drawdown=equity["max_drawdown"] if equity else 0.0,
        **decision,
    )


def _position_of(trade: Trade) -> PositionLine:
    """Return an open trade as a position, at the mark of its newest profit, else at its entry."""
    profit, entry = trade.unrealized_usd or 0.0, trade.entry_price or 0.0
    units = float(trade.held) * (OPTION_MULTIPLIER if trade.contract else 1)
    return PositionLine(
        symbol=trade.contract or trade.symbol,
        quantity=trade.held,
        entry=entry,
        mark=entry + profit / units,
        pnl_usd=profit,
        opened=trade.opened_ns / 1e9,
        value_usd=entry * units + profit,
        entered=trade.quantity,
        realised_usd=trade.realized_usd,
    )
