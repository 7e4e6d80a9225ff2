"""The gap of a session, and over several: real fills against paper fills of the same orders, by reason.

A cost is positive where the real fill was worse. Money is Decimal, times are nanoseconds UTC.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import msgspec
import numpy as np

from daemon.core.broker.ledger import AMENDED, FEES
from daemon.core.events import Activity
from daemon.core.session import new_york_text
from daemon.journal.reader import JournalReader
from daemon.reports.execution_quality import BP, ZERO, OrderQuality
from daemon.reports.gap.paper_day import PaperOrder, day_quotes, paper_orders
from daemon.reports.gather import read_day
from daemon.reports.record import WARM_NS, session_of
from daemon.reports.shadow import FEWEST, interval_of_mean
from strategies.kit.contract import Session
from strategies.kit.quantity import Quantity, from_json


class _JournaledReport(msgspec.Struct):
    """The field of a journaled report that is used here."""

    activities: tuple[Activity, ...]


_REPORTED = msgspec.json.Decoder(_JournaledReport, dec_hook=from_json)
REASONS = {
    "same": "both filled alike",
    "price": "both filled as much, at other prices",
    "quantity": "both filled, not as much",
    "live_only": "filled, on paper not: no later quote before its end reached the limit",
    "paper_refused": "filled, on paper refused",
    "paper_only": "on paper filled, not at the broker: canceled, expired or rejected there",
    "neither": "neither filled",
}


class GapLine(msgspec.Struct, frozen=True, kw_only=True):
    """One order at the broker and on paper. Prices USD a share, averages None without a fill."""

    client_order_id: str
    symbol: str
    side: int
    purpose: str  # entry or exit
    quantity: Quantity
    multiplier: int
    reason: str  # of `REASONS`
    live_status: str
    live_filled: Quantity
    live_price: Decimal | None
    live_delay_s: float | None  # from sending to the first fill
    paper_filled: Quantity
    paper_price: Decimal | None
    paper_delay_s: float | None
    paper_refusal: str
    cost_usd: Decimal | None  # of the quantity filled by both
    notional_usd: Decimal  # of the quantity filled by both, at the paper's price
    live_fees: Decimal = ZERO  # USD that came with the fills; a broker's ledger may have further ones
    paper_fees: Decimal = ZERO

    @property
    def cost_bp(self) -> Decimal | None:
        """The cost in basis points of the paper's price."""
        return self.cost_usd / self.notional_usd * BP if self.cost_usd is not None and self.notional_usd else None


class Gap(msgspec.Struct, frozen=True):
    """A session of a desk."""

    date: str
    mode: str
    lines: tuple[GapLine, ...]
    ledger_fees_usd: Decimal = ZERO  # dated on this day by the broker's ledger
    unread: int = 0  # rows of the journal that could not be read

    @property
    def cost_usd(self) -> Decimal:
        return sum((line.cost_usd or ZERO for line in self.lines), ZERO)

    @property
    def live_fees_usd(self) -> Decimal:
        return sum((line.live_fees for line in self.lines), self.ledger_fees_usd)

    @property
    def paper_fees_usd(self) -> Decimal:
        return sum((line.paper_fees for line in self.lines), ZERO)

    @property
    def net_usd(self) -> Decimal:
        """The cost with the fees of the quantity filled by both and those of the ledger."""
        common_lines = [line for line in self.lines if line.cost_usd is not None]
        return (
            self.cost_usd
            + self.ledger_fees_usd
            + sum((line.live_fees - line.paper_fees for line in common_lines), ZERO)
        )

    @property
    def notional_usd(self) -> Decimal:
        return sum((line.notional_usd for line in self.lines), ZERO)


class ReasonLine(msgspec.Struct, frozen=True):
    """All orders of one reason."""

    reason: str
    orders: int
    cost_usd: Decimal
    notional_usd: Decimal


class GapSummary(msgspec.Struct, frozen=True):
    """Several sessions. The interval is of the mean cost of a session with a fill on both sides, at 95 %."""

    sessions: tuple[str, ...]
    orders: int
    alike: float | None  # share of the orders with equal fills on paper and at the broker, or none
    cost_usd: Decimal
    cost_bp: Decimal | None
    mean_usd: float | None
    low_usd: float | None  # None with fewer than FEWEST such sessions
    high_usd: float | None
    reasons: tuple[ReasonLine, ...]
    live_fees_usd: Decimal = ZERO
    paper_fees_usd: Decimal = ZERO
    net_usd: Decimal = ZERO  # the cost with fees, of the quantity filled by both
    unread: int = 0  # rows of their journal that could not be read


def read_gap(journal: Path, date: str | None, quotes: Path | None = None) -> Gap:
    """Return the gap of a session, by default the newest; with `quotes`, to a dry run on that file or folder.

    Raises JournalError, ValueError.
    """
    with session_of(journal, date) as (reader, session):
        day = read_day(reader, session)
        paper = paper_orders(reader, session, None if quotes is None else day_quotes(quotes, session))
        fees = ledger_fees(reader, session)
    lines = [line_of(order, paper.get(order.client_order_id, PaperOrder())) for order in day.quality.orders]
    return Gap(session.date, day.mode, tuple(lines), fees, day.unread)


def ledger_fees(reader: JournalReader, session: Session) -> Decimal:
    """Return the fees in USD that the broker's ledger dates on the session's day, each line once."""
    rows = reader.query(
        "SELECT payload FROM events WHERE kind = 'BrokerReported' AND time_ns BETWEEN ? AND ? ORDER BY id",
        (session.open_ns, session.close_ns + WARM_NS),
    )
    fee_of: dict[str, Decimal] = {}
    for row in rows:
        try:
            activities = _REPORTED.decode(row["payload"]).activities
        except (msgspec.MsgspecError, UnicodeError):
            continue  # a damaged row: later reports repeat the line
        for line in activities:
            counts = line.kind in FEES and line.status not in AMENDED
            if counts and new_york_text(line.time_ns).startswith(session.date):
                fee_of[line.id] = -line.amount
    return sum(fee_of.values(), ZERO)


def line_of(order: OrderQuality, paper: PaperOrder) -> GapLine:
    """Compare an order with its paper order."""
    price = paper.cost / paper.filled if paper.filled else None
    common_filled = min(order.filled, paper.filled)
    cost, notional = None, ZERO
    if common_filled and order.average is not None and price is not None:
        cost = order.side * (order.average - price) * common_filled * order.multiplier + ZERO  # no negative zero
        notional = price * common_filled * order.multiplier
    return GapLine(
        client_order_id=order.client_order_id,
        symbol=order.symbol,
        side=order.side,
        purpose=order.purpose,
        quantity=order.quantity,
        multiplier=order.multiplier,
        reason=_reason(order, paper),
        live_status=order.status,
        live_filled=order.filled,
        live_price=order.average,
        live_delay_s=_delay(order.first_fill_ns, order.submitted_ns),
        paper_filled=paper.filled,
        paper_price=price,
        paper_delay_s=_delay(paper.first_fill_ns, order.submitted_ns),
        paper_refusal=paper.rejected,
        cost_usd=cost,
        notional_usd=notional,
        live_fees=order.fees,
        paper_fees=paper.fees,
    )


def _reason(order: OrderQuality, paper: PaperOrder) -> str:
    if not order.filled or not paper.filled:
        if order.filled:
            return "paper_refused" if paper.rejected else "live_only"
        return "paper_only" if paper.filled else "neither"
    if order.filled != paper.filled:
        return "quantity"
    return "same" if order.cost == paper.cost else "price"


def _delay(filled_ns: int, sent_ns: int) -> float | None:
    return (filled_ns - sent_ns) / 1e9 if filled_ns else None


def summary_of(gaps: Sequence[Gap]) -> GapSummary:
    """Return the sessions' sums, by reason, and the interval of their mean cost."""
    by_reason: dict[str, list[GapLine]] = defaultdict(list)
    for line in (line for gap in gaps for line in gap.lines):
        by_reason[line.reason].append(line)
    costs = np.array([float(gap.cost_usd) for gap in gaps if gap.notional_usd], dtype=np.float64)
    low, high = None, None
    if costs.size >= FEWEST:
        low, high = interval_of_mean(costs, max(costs.size ** (1.0 / 3.0), 1.0))
    orders = sum(len(lines) for lines in by_reason.values())
    alike = sum(len(by_reason[name]) for name in ("same", "price", "neither"))
    cost = sum((gap.cost_usd for gap in gaps), ZERO)
    notional = sum((gap.notional_usd for gap in gaps), ZERO)
    return GapSummary(
        sessions=tuple(gap.date for gap in gaps),
        orders=orders,
        alike=alike / orders if orders else None,
        cost_usd=cost,
        cost_bp=cost / notional * BP if notional else None,
        mean_usd=float(costs.mean()) if costs.size else None,
        low_usd=low,
        high_usd=high,
        reasons=tuple(_reason_line(name, by_reason[name]) for name in REASONS if by_reason[name]),
        live_fees_usd=sum((gap.live_fees_usd for gap in gaps), ZERO),
        paper_fees_usd=sum((gap.paper_fees_usd for gap in gaps), ZERO),
        net_usd=sum((gap.net_usd for gap in gaps), ZERO),
        unread=sum(gap.unread for gap in gaps),
    )


def _reason_line(name: str, lines: Sequence[GapLine]) -> ReasonLine:
    return ReasonLine(
        name,
        len(lines),
        sum((line.cost_usd or ZERO for line in lines), ZERO),
        sum((line.notional_usd for line in lines), ZERO),
    )
