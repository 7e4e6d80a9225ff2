"""A desk of whole shares whose journal has a former release's tables is told to trade fractions, killed, and rotated.

Expected values are the server's own books and log.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from daemon.cli import ctl
from daemon.journal.journal import FILE, READ_MODELS
from daemon.journal.reader import JournalReader
from simulator.trading.venue import Rules
from tests.support.desks.daily_day import BEGIN, bought, stop
from tests.support.desks.daily_stage import HALF_DAY, IN_FULL, NEXT_DAY, daily_stage, jump, swapping
from tests.support.desks.stage import Table

OTHERS = 3
WHOLE: Table = {"basket": {"fractions": "off"}, "broker": {"foreign_orders": "ignore"}}
FRACTIONS: Table = {"basket": {"fractions": "on"}}
ROTATES: Table = {"journal": {"rotate_mib": 1}}
QUANTITIES = {
    "orders": ("quantity", "filled"),
    "fills": ("cumulative", "quantity"),
    "moves": ("quantity", "held"),
    "round_trips": ("entered", "left_again"),
}
"""Columns that were whole numbers in the former release."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with the swapping policy."""
    return swapping(tmp_path_factory.mktemp("swapping"))


def as_the_former_release_made_it(journal: Path) -> None:
    """Give the columns of quantities the type that they had."""
    with closing(sqlite3.connect(journal)) as db:
        db.execute("DROP VIEW trades")
        for name, columns in QUANTITIES.items():
            former = READ_MODELS[name].create
            for column in columns:
                former = former.replace(f"{column} NOT NULL", f"{column} INTEGER NOT NULL")
            assert former.count("INTEGER") >= READ_MODELS[name].create.count("INTEGER") + 2
            db.execute(f"ALTER TABLE {name} RENAME TO newer")
            db.execute(former)
            db.execute(f"INSERT INTO {name} SELECT * FROM newer")
            db.execute("DROP TABLE newer")
        db.commit()


def schema_of(journal: Path) -> str:
    """The number by which a release knows whether it can read the journal."""
    with closing(JournalReader(journal)) as reader:
        return reader.meta()["schema"]


def test_a_former_journal_goes_on_with_fractions_through_a_kill_and_a_rotation(models: Path, tmp_path: Path) -> None:
    rules: Rules = IN_FULL
    with daily_stage(HALF_DAY, BEGIN, tmp_path, models, WHOLE, cash=10_000, rules=rules) as desk:
        desk.server.by_hand("place", symbol="SPY", qty=str(OTHERS), side="buy", type="market", time_in_force="opg")
        bought(desk)
        state = desk.books().state
        shares = state.book.positions["SPY"].quantity
        assert (type(shares), state.broker.foreign_held) == (int, {"SPY": OTHERS})
        journal = desk.state_dir / FILE
        as_the_former_release_made_it(journal)
        assert schema_of(journal) == "1"
        jump(desk, NEXT_DAY, BEGIN)
        killed = desk.start(tables=(FRACTIONS,))
        desk.until_true(lambda: bool(desk.held().get("QQQ")), "QQQ is bought")
        killed.kill()
        killed.wait(10)
        agreed = len(desk.read_log("reconciled"))
        desk.start(tables=(FRACTIONS, ROTATES))
        desk.until_true(lambda: len(desk.read_log("reconciled")) > agreed, "book and broker agree")
        stop(desk)
        books = desk.books()
        quantity = books.state.book.positions["QQQ"].quantity
        assert (str(quantity), "." in str(quantity)) == (str(desk.held()["QQQ"]), True)
        assert desk.held()["SPY"] == OTHERS
        assert (books.state.book.cash, books.state.risk.halt) == (desk.account.cash, None)
        rotated = [line["old"] for line in desk.read_log("journal_rotated")]
        for more in ([], *(["--file", old] for old in rotated)):
            assert ctl.main(["verify", "--state-dir", str(desk.state_dir), *more]) == 0
        assert schema_of(journal) == "2"  # the former release refuses it
        with closing(sqlite3.connect(journal)) as db:
            rows = db.execute("SELECT quantity, typeof(quantity) FROM fills WHERE symbol = 'QQQ'").fetchall()
        assert rows == [(str(quantity), "text")]
