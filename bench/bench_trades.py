"""What a list of trades costs in a long journal, in processor ms. Prints JSON.

    .venv/bin/python -m bench.bench_trades [--trades 30000] [--decisions 100000] [--events 1000000]

The journal is made up: 30,000 trades are 120 a session over a year. The reference is one GROUP BY over its `moves`.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path
from typing import Any

from daemon.core.moves import ENTER, LEAVE, round_trip
from daemon.core.records import DecisionRow, MoveRow, Row
from daemon.journal.journal import FILE, Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import CommitBatch
from daemon.journal.trades import Wanted, read_trades

SECOND_NS = 10**9
BEGIN_NS = 1_704_205_800 * SECOND_NS  # 2024-01-02 09:30 in New York
RUNS = 7
REFERENCE = (
    "SELECT opened_ns, symbol, sum(quantity), sum(entered_usd), sum(left_usd), sum(realized_usd), sum(fees_usd) "
    "FROM moves GROUP BY opened_ns, symbol"
)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--trades", type=int, default=30_000)
    parser.add_argument("--decisions", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=0, help="rows of 600 bytes that no list of trades reads")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = make_journal(Path(folder), options.trades, options.decisions, options.events)
        print(json.dumps({**vars(options), **measured(path, options.trades)}, indent=1))
    return 0


def make_journal(folder: Path, trades: int, decisions: int, events: int) -> Path:
    """Write a journal with that many trades, 1,000 s apart, and decisions, a minute apart."""
    path, chance = folder / FILE, random.Random(1)
    journal = Journal.create(path, {})
    for first in range(0, trades, 1000):
        batch = CommitBatch()
        for number in range(first, min(first + 1000, trades)):
            batch.rows.extend(_trade(number, chance))
        journal.commit(batch)
    for first in range(1, decisions + 1, 1000):
        batch = CommitBatch()
        batch.rows.extend(_decision(number) for number in range(first, min(first + 1000, decisions + 1)))
        journal.commit(batch)
    journal.close()
    with closing(sqlite3.connect(path)) as db:
        db.execute(
            "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n WHERE x < ?) INSERT INTO events "
            "SELECT x, x, x, 'QuotesReceived', printf('%0600d', x), '[]', x'00' FROM n WHERE ? > 0",
            (events, events),
        )
        db.commit()
    return path


def _trade(number: int, drawn: random.Random) -> list[Row]:
    opened_ns, symbol = BEGIN_NS + number * 1000 * SECOND_NS, drawn.choice(("SPY", "QQQ", "IWM"))
    count, gain = drawn.randint(1, 9), Decimal(drawn.randint(-300, 300)) / 100
    paid = Decimal(500 * count)
    moves = [
        _move(opened_ns, symbol, 2 * number, opened_ns, ENTER, count, count, paid, Decimal(0), Decimal("-0.02")),
        _move(
            opened_ns, symbol, 2 * number + 1, opened_ns + drawn.randint(60, 900) * SECOND_NS, LEAVE, -count, 0,
            Decimal(0), paid + gain, gain,
        ),
    ]  # fmt: skip
    return [*moves, *map(round_trip, moves)]


def _move(
    opened_ns: int, symbol: str, seq: int, at_ns: int, step: str, quantity: int, held_quantity: int, entered: Decimal,
    left_usd: Decimal, gain: Decimal,
) -> MoveRow:  # fmt: skip
    return MoveRow(
        opened_ns=opened_ns,
        symbol=symbol,
        seq=seq,
        part=0,
        at_ns=at_ns,
        time_ns=at_ns,
        step=step,
        reason="policy",
        decision=seq + 1,
        client_order_id=f"e-online_dqn-{seq + 1}-0-0",
        quantity=quantity,
        held=held_quantity,
        multiplier=1,
        entered_usd=str(entered),
        left_usd=str(left_usd),
        realized_usd=str(gain),
        fees_usd="0.02",
        pnl_usd=str(gain),
    )


def _decision(number: int) -> DecisionRow:
    at_ns = BEGIN_NS + number * 60 * SECOND_NS
    return DecisionRow(
        decision=number,
        kind="policy",
        bar_ns=at_ns,
        time_ns=at_ns,
        action="BUY",
        resolved="BUY",
        confidence=0.5,
        probabilities="[0.1,0.2,0.7]",
        gates="{}",
        outcome="ordered",
        row=bytes(92),
    )


def measured(path: Path, trades: int) -> dict[str, Any]:
    """The lists that the command, the page and the day's report ask for."""
    year_end_ns = BEGIN_NS + trades * 1000 * SECOND_NS
    lists = {
        "newest_page_ms": Wanted(limit=50),
        "page_by_profit_ms": Wanted(limit=50, sort="pnl"),
        "losses_of_a_symbol_ms": Wanted(limit=50, symbol="SPY", result="loss"),
        "last_day_ms": Wanted(start_ns=year_end_ns - 86_400 * SECOND_NS),
        "all_ms": Wanted(),
    }
    with closing(JournalReader(path)) as reader:
        times_ms = {name: _ms(lambda query=query: read_trades(reader, query)) for name, query in lists.items()}  # type: ignore[misc]
        times_ms["reference_moves_grouped_ms"] = _ms(lambda: reader.query(REFERENCE))
    return times_ms


def _ms(work: Callable[[], object]) -> float:
    spent = []
    for _ in range(RUNS):
        began = time.process_time()
        work()
        spent.append(time.process_time() - began)
    return round(statistics.median(spent) * 1e3, 1)


if __name__ == "__main__":
    sys.exit(main())
