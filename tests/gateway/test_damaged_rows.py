"""A journal with a damaged row: the gateway starts all the same, allows no new risk, and asks the broker for the rest.

Expected is what the sub-accounts held and had before the damage: the broker's account did not change meanwhile.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
from collections.abc import AsyncIterator, Iterator
from decimal import Decimal
from pathlib import Path
from typing import TypeVar
from unittest.mock import ANY

import msgspec
import pytest
import pytest_asyncio

from daemon.gateway.events import RowsLeftOut, Transferred, Updated
from daemon.gateway.journal import open_journal, read_books, verify
from daemon.gateway.step import Bookkeeper
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError
from simulator.server import AlpacaServer
from strategies.kit.units import DAY_NS, MINUTE_NS
from tests.support.desks.desk_run import execute
from tests.support.gateway_stage import Stage, broker, gateway_on

D = Decimal
Books = dict[str, tuple[Decimal, dict[str, Decimal]]]
Story = tuple[AlpacaServer, Path, Books]
E = TypeVar("E", bound=msgspec.Struct)


def books_of(s: Stage) -> Books:
    """Cash and holdings of each sub-account."""
    return {name: (account.cash, s.held(name)) for name, account in s.books.accounts.items()}


def copy_rows(folder: Path, copy: Path) -> None:
    """Copy a journal without its snapshots, so that a start steps each row."""
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*.sock"))
    execute(copy, "DELETE FROM snapshots")


@pytest_asyncio.fixture
async def story(tmp_path: Path) -> AsyncIterator[Story]:
    """The broker, the journal of a gateway that was killed there, and what its sub-accounts had."""
    folder = tmp_path / "story"
    async with broker() as alpaca:
        async with gateway_on(alpaca, folder) as s:
            await s.place("a", 5, client_order_id="e1-shelf-1-0-0")
            await s.place("b", 4, client_order_id="e1-switch-1-0-0")
            await s.until(lambda: len(s.held("a")) == len(s.held("b")) == 1)
            alpaca.by_hand("place", symbol="SPY", qty="2", side="buy")
            await s.until(lambda: s.held("main") == {"SPY": D(2)})
            await s.gateway.transfer("main", "b", D(500), "", D(0), "anna", "more")
            await s.gateway.transfer("main", "a", D(0), "SPY", D(1), "anna", "hers")
            await s.settled()
            await s.ask("b", "DELETE", "/v2/positions/SPY?qty=1")
            await s.until(lambda: s.held("b") == {"SPY": D(3)})
            alpaca.faults.add("dividend", symbol="SPY", amount="1.50")
            await s.settled()
            await s.place("b", "2.5", "buy", client_order_id="e1-switch-2-0-0")
            await s.place("b", 3, "sell", type="limit", limit_price="600", client_order_id="e1-switch-3-1-0")
            await s.until(lambda: s.held("b") == {"SPY": D("5.5")})
            stop = await s.place(
                "a", 5, "sell", type="stop", stop_price="400", time_in_force="gtc", client_order_id="e1-shelf-2-0-0"
            )
            await s.ask("a", "PATCH", f"/v2/orders/{stop['id']}", {"stop_price": "401"})
            await s.gateway.halt("by hand", "lunch", "anna")
            await s.gateway.resume("anna", "back")
            await s.settled()
            before = books_of(s)
            assert before["a"][1] == {"SPY": D(6)}
            await asyncio.to_thread(copy_rows, folder, tmp_path / "killed")
        yield alpaca, tmp_path / "killed", before


async def damaged(alpaca: AlpacaServer, killed: Path, folder: Path, *damage: str) -> tuple[Books, list[str]]:
    """Start on a copy with this damage; return its books and the rows that it left out."""
    await asyncio.sleep(90)  # the broker counts the requests of a minute
    shutil.copytree(killed, folder)
    for sql in damage:
        execute(folder, sql)
    async with gateway_on(alpaca, folder) as s:
        assert s.halted() == "journal_damaged"
        await s.settled()
        left_out = events(folder, RowsLeftOut)[-1].rows
        assert s.books.halt is not None
        assert left_out[0] in s.books.halt[1]
        return books_of(s), left_out


def events(folder: Path, kind: type[E]) -> list[E]:
    with journal_of(folder) as reader:
        rows = [entry for entry in reader.entries() if entry.kind == kind.__name__]
    return [msgspec.json.decode(entry.payload, type=kind) for entry in rows]


@contextlib.contextmanager
def journal_of(folder: Path) -> Iterator[JournalReader]:
    reader = JournalReader(folder / FILE)
    try:
        yield reader
    finally:
        reader.close()


async def test_whichever_row_is_damaged_the_broker_brings_back_all_but_transfers(story: Story, tmp_path: Path) -> None:
    alpaca, killed, before = story
    with journal_of(killed) as reader:
        rows = {entry.id: entry.kind for entry in reader.entries()}
    assert set(rows.values()) >= {
        "OrderTaken", "OrderAnswered", "CloseTaken", "ReplaceTaken", "Updated", "Reported", "Transferred", "Halted",
    }  # fmt: skip
    for row, kind in list(rows.items())[1:]:
        sql = f"UPDATE events SET payload = '{{}}' WHERE id = {row}"
        books, left_out = await damaged(alpaca, killed, tmp_path / str(row), sql)
        assert left_out[0] == f"row {row} ({kind}) is damaged"
        if not any("Transferred" in words for words in left_out):
            assert (row, books, len(left_out)) == (row, before, 1)
        assert sum(cash for cash, _ in books.values()) == alpaca.account.cash


async def test_a_start_that_ends_before_it_says_what_it_left_out_hides_no_damage_from_the_next(
    story: Story, tmp_path: Path
) -> None:
    """Its port was taken, or it was stopped at once: the books that it wrote at its end would look whole."""
    alpaca, killed, _ = story
    execute(killed, "UPDATE events SET payload = '{}' WHERE id = 9")
    for _ in range(2):
        journal = open_journal(killed, "paper")
        journal.take(Transferred(journal.books.now_ns, "main", "c", D(0), "", D(0), "gateway.toml", "capital"))
        await journal.close()
    await damaged(alpaca, killed, tmp_path / "next")


DAMAGES = {
    "another time": ("UPDATE events SET time_ns = time_ns + 1 WHERE id = 9", 1),
    "no text": ("UPDATE events SET payload = x'ff00' WHERE id = 9", 1),
    "no number": ("UPDATE events SET seq = NULL WHERE id = 9", 1),
    "another hash": ("UPDATE events SET hash = zeroblob(32) WHERE id = 9", 2),  # the next hangs on it
    "no hash": ("UPDATE events SET hash = 'x' WHERE id = 9", 2),
    "a row is gone": ("DELETE FROM events WHERE id = 9", 1),
    "three rows are gone": ("DELETE FROM events WHERE id BETWEEN 8 AND 10", 1),
    "another order's news": ("UPDATE events SET payload = (SELECT payload FROM events WHERE id = 5) WHERE id = 10", 1),
    "the last row": ("UPDATE events SET payload = '{}' WHERE id = (SELECT max(id) FROM events)", 1),
    "the last hash": ("UPDATE events SET hash = 'x' WHERE id = (SELECT max(id) FROM events)", 1),
    "two orders": ("UPDATE events SET payload = '{}' WHERE id IN (4, 9)", 2),
    "all that was told of an order": ("UPDATE events SET payload = '{}' WHERE id BETWEEN 9 AND 13", 5),
    "the whole call": ("UPDATE events SET payload = '{}' WHERE kind = 'CloseTaken'", 1),
    "all answers": ("UPDATE events SET payload = '{}' WHERE kind = 'OrderAnswered'", 7),
    "all that the broker told": ("UPDATE events SET payload = '{}' WHERE kind IN ('OrderAnswered', 'Reported')", 12),
}


@pytest.mark.parametrize("damage", DAMAGES)
async def test_damage_of_any_kind_takes_no_more_than_its_rows(story: Story, tmp_path: Path, damage: str) -> None:
    alpaca, killed, before = story
    sql, count = DAMAGES[damage]
    books, left_out = await damaged(alpaca, killed, tmp_path / "damaged", sql)
    assert (books, len(left_out)) == (before, count)


async def test_exits_work_new_risk_waits_and_the_next_start_is_whole(story: Story, tmp_path: Path) -> None:
    alpaca, killed, _ = story
    execute(killed, "UPDATE events SET payload = '{}' WHERE id = 9")
    async with gateway_on(alpaca, killed) as s:
        await s.settled()
        for name in ("a", "b"):
            for row in (await s.ask(name, "GET", "/v2/orders"))[1]:
                assert (await s.ask(name, "DELETE", f"/v2/orders/{row['id']}"))[0] == 204
        await s.until(lambda: not s.books.live)
        assert "journal_damaged" in str(await s.refused("b", 1))
        await s.place("b", "5.5", "sell", client_order_id="e1-switch-4-0-0")
        await s.until(lambda: not s.held("b"))
        assert s.log.of("gateway_halted")[0]["reason"] == "journal_damaged"
        assert "row 9 (OrderTaken) is damaged" in str(s.log.of("gateway_halted")[0]["detail"])
    report = verify(killed / FILE)
    assert report.difference == "row 9 (OrderTaken) is damaged"
    assert report.rows > report.stepped > 8 + 10  # those before it, and those of the life that left it out
    with journal_of(killed) as reader:
        last = max(entry.id for entry in reader.entries())
    execute(killed, f"UPDATE events SET effects = '[{{}}]' WHERE id = {last}")
    assert verify(killed / FILE).stepped == report.stepped - 1
    execute(killed, f"UPDATE events SET effects = '[]' WHERE id = {last}")
    async with gateway_on(alpaca, killed) as s:
        assert s.halted() == "journal_damaged"  # it stays, and is not said again
        assert not s.log.of("gateway_halted")
        await s.gateway.resume("anna", "compared")
        await s.settled()
    async with gateway_on(alpaca, killed) as s:
        assert not s.halted()
        assert len(events(killed, RowsLeftOut)) == 1


@pytest.mark.parametrize("left_out", [True, False])
async def test_an_order_of_days_ago_was_booked_before_only_where_no_row_is_missing(
    story: Story, left_out: bool
) -> None:
    """A resting order whose row was left out, and that fills three days later, still in the journal."""
    alpaca, killed, before = story
    books = read_books(killed / FILE)
    machine = Bookkeeper(books)
    if left_out:
        machine.leave_out(books.seq + 1)
    row = alpaca.account.by_client_id["e1-shelf-1-0-0"].shown()
    row = {**row, "id": "rests", "client_order_id": "e1-shelf-8-0-0"}
    books.reported_ns += 3 * DAY_NS
    fill = {"event": "fill", "qty": "5", "price": "500.01", "timestamp": row["filled_at"], "order": row}
    machine.step(Updated(books.reported_ns, {**fill, "execution_id": "new"}))
    assert books.accounts["a"].quantity("SPY") == before["a"][1]["SPY"] + 5 * left_out


@contextlib.asynccontextmanager
async def copied(alpaca: AlpacaServer, folder: Path, copy: Path) -> AsyncIterator[Stage]:
    """A gateway whose journal is copied to `copy` as it was when the story of its body ended."""
    async with gateway_on(alpaca, folder) as s:
        yield s
        await s.settled()
        await asyncio.to_thread(copy_rows, folder, copy)


async def test_an_order_that_no_desk_named_is_whose_its_news_were_passed_on_to(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with copied(alpaca, tmp_path / "story", tmp_path / "killed") as s:
            await s.place("a", 5)
            await s.until(lambda: s.held("a") == {"SPY": D(5)})
            await s.place("a", 2, type="limit", limit_price="450")
            before = books_of(s)
        sql = "UPDATE events SET payload = '{}' WHERE kind = 'OrderTaken'"
        assert await damaged(alpaca, tmp_path / "killed", tmp_path / "damaged", sql) == (before, [ANY, ANY])
        orders = read_books(tmp_path / "damaged" / FILE).orders.values()
        assert [(order.account, order.gives_way) for order in orders] == [("a", False), ("a", True)]  # by the halt


async def test_a_split_is_divided_by_who_held_once_its_lost_fill_is_back(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with copied(alpaca, tmp_path / "story", tmp_path / "killed") as s:
            await s.place("a", 3, client_order_id="e1-shelf-1-0-0")
            await s.place("b", 4, client_order_id="e1-switch-1-0-0")
            await s.until(lambda: len(s.held("a")) == len(s.held("b")) == 1)
            alpaca.faults.add("split", symbol="SPY", ratio="2")
            await s.settled()
            await asyncio.sleep(1)
            await s.place("a", 1, client_order_id="e1-shelf-2-0-0")
            await s.until(lambda: s.held("a") == {"SPY": D(7)})
            before = books_of(s)
        sql = "UPDATE events SET payload = '{}' WHERE kind = 'Updated' AND payload LIKE '%\"fill\"%e1-switch%'"
        books, _ = await damaged(alpaca, tmp_path / "killed", tmp_path / "damaged", sql)
        assert books == before
        assert (books["a"][1], books["b"][1]) == ({"SPY": D(7)}, {"SPY": D(8)})


async def test_a_bust_is_read_again_where_all_rows_of_its_order_but_that_are_lost(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with copied(alpaca, tmp_path / "story", tmp_path / "killed") as s:
            await s.place("a", 3, client_order_id="e1-shelf-1-0-0")
            await s.until(lambda: s.held("a") == {"SPY": D(3)})
            await s.place("a", 2, client_order_id="e1-shelf-2-0-0")
            await s.until(lambda: s.held("a") == {"SPY": D(5)})
            alpaca.faults.add("trade_bust")
            await s.until(lambda: s.held("a") == {"SPY": D(3)})
            before = books_of(s)
        sql = "UPDATE events SET payload = '{}' WHERE payload LIKE '%e1-shelf-2-0-0%'"
        books, _ = await damaged(alpaca, tmp_path / "killed", tmp_path / "damaged", sql)
        assert books == before
        assert before["a"][1] == {"SPY": D(3)}


async def test_a_stop_stays_while_the_bust_that_gave_its_shares_back_is_read_again(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with copied(alpaca, tmp_path / "story", tmp_path / "killed") as s:
            await s.place("a", 3, client_order_id="e1-shelf-1-0-0")
            await s.until(lambda: s.held("a") == {"SPY": D(3)})
            await s.place("a", 3, "sell", client_order_id="e1-shelf-2-0-0")
            await s.until(lambda: not s.held("a"))
            alpaca.faults.add("trade_bust")
            await s.until(lambda: s.held("a") == {"SPY": D(3)})
            stop = {"type": "stop", "stop_price": "400", "time_in_force": "gtc"}
            await s.place("a", 3, "sell", client_order_id="e1-shelf-3-0-0", **stop)
            before = books_of(s)
        alpaca.faults.add("transfer", amount="10")  # a line: sales that nothing covers are looked for
        sql = "UPDATE events SET payload = '{}' WHERE kind = 'FillsRead'"
        books, _ = await damaged(alpaca, tmp_path / "killed", tmp_path / "damaged", sql)
        assert books["a"] == before["a"]
        assert [order.client_order_id for order in alpaca.account.working.values()] == ["e1-shelf-3-0-0"]


@pytest.mark.parametrize(("minutes", "effect_count"), [(0, 0), (1, 0), (3, 1)])
async def test_a_stop_of_too_many_shares_waits_for_the_fills_of_a_bust_no_longer_than_two_minutes(
    story: Story, minutes: int, effect_count: int
) -> None:
    books = read_books(story[1] / FILE)
    machine = Bookkeeper(books)
    machine._read_fills(books.orders["e1-shelf-1-0-0"].id)
    books.accounts["a"].change("SPY", D(-4), D(-2000))  # 2 are left, and the stop is of 5
    books.now_ns += minutes * MINUTE_NS
    machine._read_fills(books.orders["e1-shelf-1-0-0"].id)  # as each report does that has the bust
    machine._effects = []
    machine._end_uncovered_sales("a", "SPY")
    assert len(machine._effects) == effect_count


async def test_a_sale_whose_rows_are_lost_is_not_sold_again_before_the_first_report(tmp_path: Path) -> None:
    async with broker() as alpaca:
        async with copied(alpaca, tmp_path / "story", tmp_path / "killed") as s:
            await s.place("a", 5, client_order_id="e1-shelf-1-0-0")
            await s.place("b", 5, client_order_id="e1-switch-1-0-0")
            await s.until(lambda: len(s.held("a")) == len(s.held("b")) == 1)
            await s.place("a", 5, "sell", client_order_id="e1-shelf-2-0-0")
            await s.until(lambda: not s.held("a"))
        await asyncio.sleep(90)
        execute(tmp_path / "killed", "UPDATE events SET payload = '{}' WHERE payload LIKE '%e1-shelf-2-0-0%'")
        async with gateway_on(alpaca, tmp_path / "killed", at_once=True) as s:
            assert s.held("a") == {"SPY": D(5)}  # by the rows that are left
            assert (await s.refused("a", 5, "sell"))[0] == 403
            assert (s.held("a"), s.held("b")) == ({}, {"SPY": D(5)})
            assert alpaca.account.positions["SPY"].qty == 5
            await s.place("b", 5, "sell")
            await s.until(lambda: not s.held("b"))


async def test_a_person_s_halt_stays_beside_it(story: Story, tmp_path: Path) -> None:
    alpaca, killed, _ = story
    execute(killed, "UPDATE events SET payload = '{}' WHERE kind = 'Resumed'")
    async with gateway_on(alpaca, killed) as s:
        assert s.halted() == "journal_damaged"
        assert s.books.halt is not None
        assert s.books.halt[1].endswith("halted before: by hand: lunch")


async def test_books_that_do_not_begin_need_a_copy(story: Story) -> None:
    _, killed, _ = story
    execute(killed, "UPDATE events SET payload = '{}' WHERE id = 1")
    with pytest.raises(JournalError, match=r"row 1 \(Opened\) is damaged, and the books begin there: restore it"):
        read_books(killed / FILE)


async def test_a_fault_of_the_code_is_no_damage(story: Story, monkeypatch: pytest.MonkeyPatch) -> None:
    _, killed, _ = story

    def wrong(self: Bookkeeper, event: object) -> None:
        raise KeyError("a fault")

    monkeypatch.setattr(Bookkeeper, "_update", wrong)
    with pytest.raises(KeyError, match="a fault"):
        read_books(killed / FILE)
