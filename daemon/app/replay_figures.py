"""Figures of a finished run, read from its journal."""

from __future__ import annotations

from bisect import bisect_left
from decimal import Decimal
from typing import Any, NamedTuple

import msgspec

from daemon.app.replay_start import Replay
from daemon.core.events import BarClosed, ContractsListed, OrderFilled, SessionScheduled
from daemon.core.instruments.option_market import SessionMarket, expiries_from
from daemon.core.limits import Paper
from daemon.core.paper.state import SHARES
from daemon.core.session import new_york_text
from daemon.core.state import State
from daemon.journal.reader import JournalReader
from daemon.operator.summary import QuotesUsed
from daemon.tapes.quotes.tape import QuotedTape

PAGE = 5000  # rows of the journal
_COMPARED = (
    "SELECT id, payload FROM events WHERE id > ? AND kind IN "
    "('SessionScheduled', 'ContractsListed', 'BarClosed', 'OrderFilled') ORDER BY id LIMIT ?"
)
_EVENTS = msgspec.json.Decoder(SessionScheduled | ContractsListed | BarClosed | OrderFilled)
CURVE_POINTS = 600  # of the end summary's equity curve


def equity_curve(reader: JournalReader) -> list[Decimal]:
    """Return at most `CURVE_POINTS` equity values, evenly spaced over the rows, with the last one."""
    rows = int(reader.query("SELECT count(*) AS rows FROM equity")[0]["rows"])
    every = max(1, -(-rows // CURVE_POINTS))
    picked = reader.query(
        "SELECT equity_usd FROM (SELECT equity_usd, row_number() OVER (ORDER BY time_ns DESC) AS place, time_ns "
        "FROM equity) WHERE (place - 1) % ? = 0 ORDER BY time_ns",
        (every,),
    )
    return [Decimal(row["equity_usd"]) for row in picked]


def session_ends(reader: JournalReader) -> list[tuple[str, float]]:
    """Return date and equity in USD at each session's end, from the last end before the first decision."""
    first = reader.query("SELECT min(time_ns) AS first_ns FROM decisions")[0]["first_ns"]
    if first is None:
        return []
    ends = {
        new_york_text(row["time_ns"])[:10]: float(row["equity_usd"])
        for row in reader.query("SELECT time_ns, equity_usd FROM equity ORDER BY time_ns")
    }
    decided, dates = new_york_text(first)[:10], sorted(ends)
    return [(date, ends[date]) for date in dates[max(bisect_left(dates, decided) - 1, 0) :]]


def halt_date(state: State[Any]) -> str:
    """Return the New York date of the halt that stands, "" for none."""
    halt = state.risk.halt
    return new_york_text(halt.since_ns)[:10] if halt is not None else ""


class Compared(NamedTuple):
    """Fills next to Black-Scholes prices of the same minutes; USD, without fees."""

    fills: int = 0  # for which there is such a price
    paid_more: Decimal = Decimal(0)  # for what was bought
    received_less: Decimal = Decimal(0)  # for what was sold


def at_black_scholes(reader: JournalReader, paper: Paper) -> Compared:
    """Compare each fill with the option market's bid or ask at the close of the bar that ends then.

    A session without a volatility has no such price.
    """
    found, closes, last = Compared(), (0, 0.0), 0
    session: SessionScheduled | None = None
    market: SessionMarket | None = None
    while rows := reader.query(_COMPARED, (last, PAGE)):
        last = rows[-1]["id"]
        for row in rows:
            match _EVENTS.decode(row["payload"]):
                case SessionScheduled() as scheduled:
                    session, market = scheduled, None
                case ContractsListed() as listed if session is not None and listed.volatility is not None:
                    expiries = expiries_from(session.session, session.upcoming)
                    market = SessionMarket(session.session, expiries, listed.volatility, 0)
                case BarClosed() as closed:
                    closes = closed.time_ns, closed.bar.close
                case OrderFilled() as fill if market is not None and closes[0] == fill.filled_ns:
                    cents = market.cents(fill.symbol, closes[1], fill.filled_ns, paper)
                    if cents is not None:
                        found = _with(found, fill, cents)
    return found


def _with(found: Compared, fill: OrderFilled, cents: tuple[int, int]) -> Compared:
    bid, ask = (Decimal(side) / 100 for side in cents)
    if fill.side > 0:
        more = (fill.price - ask) * fill.quantity * SHARES
        return found._replace(fills=found.fills + 1, paid_more=found.paid_more + more)
    less = (bid - fill.price) * fill.quantity * SHARES
    return found._replace(fills=found.fills + 1, received_less=found.received_less + less)


def quotes_used(replay: Replay, tape: object, market: Any, reader: JournalReader) -> QuotesUsed | None:
    """Return what a replay did with recorded option quotes, None without any; `market` is its paper broker's state."""
    if replay.quotes is None or not isinstance(tape, QuotedTape):
        return None
    counts, file = tape.quote_counts, replay.quotes.file
    compared = at_black_scholes(reader, replay.settings.paper)
    return QuotesUsed(
        file=file.path.name,
        synthetic=file.synthetic,
        sessions=counts.sessions,
        sessions_quoted=counts.with_quotes,
        first_date=counts.first_date,
        last_date=counts.last_date,
        asked=counts.quotes.total(),
        recorded=counts.quotes["recorded"],
        standing=counts.quotes["standing"],
        missing=counts.quotes["missing"],
        faulty_rows=counts.faulty,
        fills_recorded=market.fills_recorded,
        fills_modelled=market.fills_modelled,
        fills_compared=compared.fills,
        paid_more_usd=float(compared.paid_more),
        received_less_usd=float(compared.received_less),
    )
