"""The equity of a journal by day: transfers follow from the book, also while something is held.

By hand: a desk has 10,000 USD and buys 9 calls at 2.00, which are 1,800 USD at cost.
"""

from __future__ import annotations

from contextlib import closing
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest

from daemon.core import events as ev
from daemon.core.limits import Sizing, Trading
from daemon.core.records import EquityRow
from daemon.journal.equity import at_work, equity_days
from daemon.journal.journal import Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import CommitBatch
from tests.support.core.desk import CALL, HALF_DAY, MONDAY, TUESDAY, Desk, desk, quote


def write_journal(d: Desk, folder: Path) -> Path:
    path = folder / "journal.sqlite"
    journal = Journal.create(path, {})
    batch = CommitBatch()
    batch.rows = list(d.rows)
    journal.commit(batch)
    journal.close()
    return path


def test_a_transfer_while_a_position_is_held_is_no_gain(tmp_path: Path) -> None:
    d = desk(Trading(sizing=Sizing(stop_loss=0.99, take_profit=9.0)))
    d.holds()
    d.bar(1, quotes=(quote(CALL, "2.08", "2.12"),))  # 9 calls are worth 90 USD more
    d.put(ev.CashTransferred(d.at(2), Decimal(500)))
    d.bar(3, quotes=(quote(CALL, "2.08", "2.12"),))
    d.put(ev.SessionEnded(MONDAY.close_ns, MONDAY.date))
    d.begin(TUESDAY, HALF_DAY.date)
    d.bar(0, quotes=(quote(CALL, "2.08", "2.12"),))
    with closing(JournalReader(write_journal(d, tmp_path))) as reader:
        monday, tuesday = equity_days(reader)
        share = at_work(reader, 0, 2**62)
        none = at_work(reader, 0, 1)
    assert (monday.date, tuesday.date) == (MONDAY.date, TUESDAY.date)
    assert (monday.opened_usd, monday.closed_usd, monday.transfers_usd) == (10_000.0, 10_590.0, 500.0)
    assert (tuesday.closed_usd, tuesday.transfers_usd) == (10_590.0, 0.0)
    assert monday.held
    assert share is not None
    assert 0.17 < share < 0.19  # 1,800 of 10,000 at first, 1,890 of 10,590 later
    assert none is None


def test_a_journal_without_records_has_no_days(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    Journal.create(path, {}).close()
    with closing(JournalReader(path)) as reader:
        assert equity_days(reader) == ()


def test_fees_and_a_closed_trade_are_no_transfer(tmp_path: Path) -> None:
    d = desk(Trading(sizing=Sizing(stop_loss=0.99, take_profit=9.0)))
    order = d.buys()
    d.fill(order, 9, fees="6.30")
    d.bar(1)
    d.put(ev.SessionEnded(MONDAY.close_ns, MONDAY.date))
    with closing(JournalReader(write_journal(d, tmp_path))) as reader:
        (monday,) = equity_days(reader)
    assert monday.transfers_usd == 0.0
    assert monday.closed_usd == pytest.approx(9_993.70)


def test_the_extremes_of_a_day_and_its_largest_fall_are_those_of_its_records(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal.create(path, {})
    batch = CommitBatch()
    records = {MONDAY: ("100", "104", "98", "101"), TUESDAY: ("90", "99")}
    batch.rows = [
        EquityRow(session.open_ns + minute * 60 * 10**9, usd, usd, "0", 0.0)
        for session, course in records.items()
        for minute, usd in enumerate(course)
    ]
    journal.commit(batch)
    journal.close()
    with closing(JournalReader(path)) as reader:
        monday, tuesday = equity_days(reader)
    assert (monday.low_usd, monday.high_usd) == (98.0, 104.0)
    assert monday.fall == pytest.approx(6 / 104)
    assert (tuesday.low_usd, tuesday.high_usd, tuesday.fall) == (90.0, 99.0, 0.0)  # it rose all day


def test_a_record_of_the_night_belongs_to_its_date_in_new_york_in_summer_and_winter(tmp_path: Path) -> None:
    times = {
        "2024-06-03": ["2024-06-03T20:00", "2024-06-04T03:59"],  # UTC; midnight is at 4:00
        "2024-06-04": ["2024-06-04T04:30", "2024-06-04T20:00"],
        "2024-12-03": ["2024-12-03T21:00", "2024-12-04T04:30"],  # at 5:00
        "2024-12-04": ["2024-12-04T05:00", "2024-12-04T21:00"],
    }
    path, batch = tmp_path / "journal.sqlite", CommitBatch()
    journal = Journal.create(path, {})
    at = [datetime.fromisoformat(f"{text}+00:00") for texts in times.values() for text in texts]
    batch.rows = [EquityRow(int(time.timestamp()) * 10**9, "1", "1", "0", 0.0) for time in at]
    journal.commit(batch)
    journal.close()
    with closing(JournalReader(path)) as reader:
        assert [day.date for day in equity_days(reader)] == list(times)
