"""A journal as a reader of others sees it: what it says is what the state, SQL and `rltraderctl verify` say."""

from __future__ import annotations

import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import pytest

from daemon import journal
from daemon.core.events import ClockTicked, OrderFilled
from daemon.engine.follow import Follower
from daemon.journal.journal import FILE, Journal
from daemon.journal.rows import CommitBatch, HashChain
from tests.support.desks.desk_run import Desk, tape_rows, verified, write_tape


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of a desk that traded."""
    folder = tmp_path_factory.mktemp("traded")
    desk = Desk(write_tape(folder / "tape.csv", tape_rows(2, 60)))
    assert desk.run(folder / "state").failure is None
    return folder / "state"


def test_rows_are_all_rows_and_those_of_a_kind_are_its_events(state: Path) -> None:
    with closing(sqlite3.connect(state / FILE)) as db:
        ids = [row[0] for row in db.execute("SELECT id FROM events ORDER BY id")]
        fills = [row[0] for row in db.execute("SELECT id FROM events WHERE kind = 'OrderFilled' ORDER BY id")]
    with journal.open(state) as book:
        assert [entry.id for entry in book.rows()] == ids
        assert [entry.id for entry in book.rows("OrderFilled")] == fills
        assert [entry.id for entry in book.rows(after=ids[-3])] == ids[-2:]
        assert all(isinstance(event, OrderFilled) for event in book.events("OrderFilled"))
        with pytest.raises(ValueError, match="'OrderFiled' is no kind of event"):
            book.rows("OrderFiled")


def test_the_account_after_each_row_is_that_of_the_state_stepped_to_it(state: Path) -> None:
    with journal.open(state) as book:
        last = max(entry.id for entry in book.rows())
        rows = [entry.id for entry in book.rows("OrderFilled")]
        assert len(rows) > 4
        follower = Follower(state, after_row=0)
        for row in [1, *rows, last]:
            while follower.last_id < row:
                follower.advance(min(row - follower.last_id, 200))
                assert follower.problem == ""
            assert follower.state is not None
            quantities = {position.symbol: position.quantity for position in follower.state.book.positions.values()}
            assert book.at(row).positions == {symbol: count for symbol, count in quantities.items() if count}, row
        at = book.at(last)
        assert follower.state is not None
        assert at.realized_usd == follower.state.book.realized
        assert at.cash_usd == follower.state.book.cash
        with pytest.raises(ValueError, match=f"has no row {last + 1}: expected one from 1 to {last}"):
            book.at(last + 1)


def test_the_tables_come_whole_and_in_their_order(state: Path) -> None:
    with journal.open(state) as book:
        for name, rows in (("decisions", book.decisions()), ("orders", book.orders()), ("fills", book.fills())):
            assert len(list(rows)) == book.query(f"SELECT count(*) AS n FROM {name}")[0]["n"] > 0
        times = [record.time_ns for record in book.equity()]
        assert times == sorted(times)
        assert Decimal(book.query("SELECT equity_usd AS usd FROM equity ORDER BY time_ns DESC")[0]["usd"]) == Decimal(
            list(book.equity())[-1].equity_usd
        )


def test_trades_and_their_sums_are_those_of_the_view(state: Path) -> None:
    with journal.open(state) as book:
        (row,) = book.query("SELECT count(left_ns) AS n, round(sum(pnl_usd), 6) AS usd FROM trades")
        totals = book.totals()
        assert (totals.trades, round(totals.pnl_usd + (totals.open_usd or 0.0), 6)) == (row["n"], row["usd"])
        losses = [trade.pnl_usd or 0.0 for trade in book.trades(result="loss", sort="pnl", limit=2)]
        assert losses == sorted(losses, reverse=True)
        assert book.trades("QQQ") == ()
        with pytest.raises(ValueError, match="sort is 'profit': expected one of 'time', 'pnl', 'duration'"):
            book.trades(sort="profit")


def test_a_whole_chain_ends_at_the_head_that_the_journal_states(state: Path) -> None:
    with journal.open(state / FILE) as book:
        check = book.check_chain()
        assert (check.difference, check.rows) == ("", book.query("SELECT count(*) AS n FROM events")[0]["n"])
        assert check.head == book.head()
        assert verified(state).difference == ""


def _sql(statement: str) -> Callable[[sqlite3.Connection], object]:
    return lambda db: db.execute(statement)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_sql("UPDATE events SET payload = replace(payload, '1', '2') WHERE id = 40"), r"row 40 \(\w+\): its hash"),
        (_sql("UPDATE events SET hash = zeroblob(32) WHERE id = 40"), r"row 40 \(\w+\): its hash"),
        (_sql("DELETE FROM events WHERE id = 40"), "row 40 is missing, row 41 follows"),
        (_sql("DELETE FROM events WHERE id > 40"), r"the journal's end is row \d+, found 40"),
        (_sql("UPDATE meta SET value = 'other' WHERE key = 'account'"), r"row 1 \(\w+\): its hash"),
    ],
)
def test_a_row_that_is_not_as_it_was_written_is_named(
    change: Callable[[sqlite3.Connection], object], words: str, state: Path, tmp_path: Path
) -> None:
    shutil.copyfile(state / FILE, tmp_path / FILE)
    with closing(sqlite3.connect(tmp_path / FILE)) as db:
        change(db)
        db.commit()
    with journal.open(tmp_path) as book:
        check = book.check_chain()
    assert re.match(words, check.difference), check.difference


def test_a_chain_is_checked_while_a_daemon_writes_on(tmp_path: Path) -> None:
    live_journal, chain = Journal.create(tmp_path / FILE, {"strategy": "option_scalper"}), HashChain()
    with journal.open(tmp_path) as book:
        chain.head = bytes.fromhex(book.head())
        for seq in (1, 2, 3):
            batch = CommitBatch()
            batch.entries = [chain.entry(seq, ClockTicked(seq), "[]")]
            live_journal.commit(batch)
            assert book.check_chain() == journal.ChainCheck(seq, chain.head.hex())
        assert [entry.id for entry in book.rows(after=2)] == [3]
    live_journal.close()


def test_what_is_no_journal_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(journal.JournalError, match="no journal here"):
        journal.open(tmp_path)
    (tmp_path / FILE).write_bytes(b"no database" * 200)
    with pytest.raises(journal.JournalError, match="not a journal or damaged"):
        journal.open(str(tmp_path))
