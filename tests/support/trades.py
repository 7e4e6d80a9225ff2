"""A second reckoning of a journal's trades, with pandas and exact fractions, from its fills alone."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from fractions import Fraction
from pathlib import Path

import pandas as pd
import pytest

from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.trade import Trade
from daemon.journal.trades import Wanted, read_trades


def multiplier(symbol: str) -> int:
    """OCC symbols are longer than any share's."""
    return 100 if len(symbol) > 12 else 1


def trips_of_fills(journal: Path) -> pd.DataFrame:
    """One line for each round trip: from flat to flat, or still open (`held` above 0); amounts are fractions of USD."""
    with closing(sqlite3.connect(journal)) as db:
        fills = pd.read_sql("SELECT * FROM fills ORDER BY time_ns, filled_ns, side, client_order_id, cumulative", db)
    trips: list[dict[str, object]] = []
    for symbol, of_symbol in fills.groupby("symbol", sort=False):
        signed = of_symbol["side"] * of_symbol["quantity"]
        held = signed.cumsum()
        number = (held - signed == 0).cumsum()
        for _, trip in of_symbol.groupby(number):
            trips.append(_trip(str(symbol), trip))
    return pd.DataFrame(trips)


def _trip(symbol: str, fills: pd.DataFrame) -> dict[str, object]:
    size, held = multiplier(symbol), 0
    cost = realised = fees = Fraction(0)
    for fill in fills.itertuples():
        value, paid = Fraction(str(fill.price)) * fill.quantity * size, Fraction(str(fill.fees_usd))
        if fill.side > 0:
            held, cost, realised = held + fill.quantity, cost + value, realised - paid
        else:
            part = cost * fill.quantity / held
            held, cost, realised = held - fill.quantity, cost - part, realised + value - part - paid
        fees += paid
    bought = fills[fills["side"] > 0]
    entered = sum((Fraction(str(f.price)) * f.quantity for f in bought.itertuples()), Fraction(0))
    return {
        "symbol": symbol,
        "opened_ns": int(fills["filled_ns"].iloc[0]),
        "left_ns": 0 if held else int(fills["filled_ns"].iloc[-1]),
        "quantity": int(bought["quantity"].sum()),
        "held": held,
        "entry": float(entered / int(bought["quantity"].sum())),
        "realised": realised,
        "fees": fees,
        "fills": len(fills),
    }


def prove_trades(journal_or_folder: Path) -> tuple[Trade, ...]:
    """Check every trade of a journal against the fills, and their sum against the book; returns the trades."""
    journal = journal_or_folder if journal_or_folder.is_file() else journal_or_folder / FILE
    trips = trips_of_fills(journal)
    with closing(JournalReader(journal)) as reader:
        trades = read_trades(reader, Wanted())
        rows = reader.query("SELECT * FROM trades")
        book = Fraction(reader.query("SELECT realized_usd FROM equity ORDER BY time_ns DESC LIMIT 1")[0][0])
        moved = sum((Fraction(row[0]) for row in reader.query("SELECT realized_usd FROM moves")), Fraction(0))
    assert moved == book, "the rows of `moves` are exact"
    by_key = {(trade.opened_ns, trade.contract or trade.symbol): trade for trade in trades.trades}
    assert set(by_key) == {(trip.opened_ns, trip.symbol) for trip in trips.itertuples()}
    realised = {(row["opened_ns"], row["symbol"]): row["realized_usd"] for row in rows}
    for trip in trips.itertuples():
        key = (trip.opened_ns, trip.symbol)
        trade = by_key[key]
        assert (trade.quantity, trade.held, trade.fills) == (trip.quantity, trip.held, trip.fills), key
        assert (trade.left_ns or 0) == trip.left_ns, key
        assert trade.entry_price == pytest.approx(trip.entry, rel=1e-9)
        assert trade.fees_usd == pytest.approx(float(trip.fees), abs=1e-6)
        rounded = 0.01 * trip.fills if trip.held else 1e-6  # a part's cost is on a grid
        assert realised[key] == pytest.approx(float(trip.realised), abs=rounded), key
        if not trip.held:
            assert trade.pnl_usd == pytest.approx(float(trip.realised), abs=1e-6)
            assert trade.pnl_usd is not None
            assert (trade.worst_usd or 0.0) - 1e-6 <= trade.pnl_usd <= (trade.best_usd or 0.0) + 1e-6
    closed = sum((trip.realised for trip in trips.itertuples() if not trip.held), Fraction(0))
    assert trades.totals.pnl_usd == pytest.approx(float(closed), abs=0.005)
    assert sum(realised.values()) + trades.totals.other_usd == pytest.approx(float(book), abs=0.005)
    return trades.trades
