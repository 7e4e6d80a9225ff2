"""The figures of a finished run, read from its journal."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from daemon.app.replay_figures import CURVE_POINTS, at_black_scholes, equity_curve
from daemon.core.events import BarClosed, ContractsListed, Event, OrderFilled, SessionScheduled
from daemon.core.limits import Paper
from daemon.core.records import EquityRow, FillRow
from daemon.journal.journal import FILE, Journal
from daemon.journal.rows import CommitBatch, HashChain, encode_effects
from strategies.kit.contract import Bar, Session
from strategies.kit.units import MINUTE_NS, SECOND_NS


@pytest.mark.parametrize(
    ("rows", "every"), [(0, 1), (1, 1), (600, 1), (601, 2), (1500, 3)]
)  # 601 / 600 and 1500 / 600, rounded up
def test_the_equity_curve_has_few_points_evenly_chosen_and_ends_with_the_last(
    tmp_path: Path, rows: int, every: int
) -> None:
    journal = Journal.create(tmp_path / FILE, {})
    batch = CommitBatch()
    batch.rows.extend(EquityRow(number, str(number), "0", "0", 0.0) for number in range(rows))
    journal.commit(batch)
    curve = equity_curve(journal.reader())
    journal.close()
    assert curve == [Decimal(number) for number in range(rows)][::-1][::every][::-1]
    assert len(curve) <= CURVE_POINTS


def test_the_equity_curve_begins_before_the_first_fill_as_the_result_beside_it_does(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / FILE, {})
    batch = CommitBatch()
    batch.rows.extend(EquityRow(number, str(number), "0", "0", 0.0) for number in range(10))
    batch.rows.append(FillRow("a", 0, 1, "SPY", 1, 1, "1", "0", 7, 7))
    journal.commit(batch)
    curve = equity_curve(journal.reader())
    journal.close()
    assert curve == [Decimal(6), Decimal(7), Decimal(8), Decimal(9)]


CALL, FAR = "SPY240816C00500000", "SPY240920C00500000"  # worth 50.00 at 550 and next to no volatility; no known expiry
DAY = Session("2024-08-15", 1_723_728_600 * SECOND_NS, 1_723_752_000 * SECOND_NS)
NEXT = Session("2024-08-16", 1_723_815_000 * SECOND_NS, 1_723_838_400 * SECOND_NS)


def fill(minute: int, symbol: str, side: int, price: str, quantity: int = 2) -> OrderFilled:
    when, cost = DAY.open_ns + minute * MINUTE_NS, Decimal(price) * quantity
    return OrderFilled(when, "a", symbol, side, Decimal(price), when, quantity, cost, Decimal(0), quantity)


def test_fills_are_next_to_the_black_scholes_prices_of_their_minutes(tmp_path: Path) -> None:
    """The market's half-spread is 0.4 %: 0.20 USD around 50.00, so it bids 49.80 and asks 50.20."""
    bar = Bar("SPY", DAY.open_ns, 550.0, 550.0, 550.0, 550.0, 1)
    events: tuple[Event, ...] = (
        SessionScheduled(DAY.open_ns, DAY, (NEXT,)),
        fill(1, CALL, 1, "1.00"),  # before the session's volatility is known
        ContractsListed(DAY.open_ns, DAY.date, (), 0.0001),
        BarClosed(DAY.open_ns + MINUTE_NS, bar),
        fill(1, CALL, 1, "50.50"),  # 0.30 more for 200 shares
        fill(1, CALL, -1, "49.75", 1),  # 0.05 less for 100 shares
        fill(1, CALL, -1, "49.90", 1),  # 0.10 more
        fill(1, FAR, 1, "9.00"),
        fill(2, CALL, 1, "9.00"),  # a minute without a bar
        SessionScheduled(NEXT.open_ns, NEXT, ()),
        BarClosed(NEXT.open_ns + MINUTE_NS, replace(bar, start_ns=NEXT.open_ns)),
        replace(fill(1, CALL, 1, "9.00"), filled_ns=NEXT.open_ns + MINUTE_NS),  # no volatility for this session
    )
    journal, chain, batch = Journal.create(tmp_path / FILE, {}), HashChain(), CommitBatch()
    batch.entries.extend(chain.entry(seq, event, encode_effects(())) for seq, event in enumerate(events, start=1))
    journal.commit(batch)
    difference = at_black_scholes(journal.reader(), Paper())
    journal.close()
    assert difference == (3, Decimal("60.00"), Decimal("-5.00"))
