"""The journal gives back what was committed, whole batches or nothing, and refuses a file that it cannot read."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import signal
import sqlite3
import stat
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.core.effects import AskPolicy, CancelOrder, RaiseAlarm
from daemon.core.events import (
    BrokerSnapshot,
    CashTransferred,
    ClockTicked,
    Event,
    HaltRequested,
    ModelRefused,
    OrderFilled,
    OrderRejected,
    PolicyAnswered,
)
from daemon.core.records import EquityRow, FillRow, OrderRow, ShadowRow
from daemon.journal.journal import FILE, SNAPSHOTS_KEPT, Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import (
    CommitBatch,
    HashChain,
    JournalError,
    Snapshot,
    WriteFailed,
    decode_event,
    encode_effects,
    encode_event,
    genesis,
)
from strategies.kit.contract import Observation
from tests.support.paths import REPOSITORY

TIMES = st.integers(min_value=0, max_value=2**62)
TEXTS = st.text(max_size=20)
EVENTS = st.one_of(
    st.builds(ClockTicked, TIMES),
    st.builds(HaltRequested, TIMES, TEXTS, TEXTS, TEXTS),
    st.builds(OrderRejected, TIMES, TEXTS, TEXTS),
    st.builds(CashTransferred, TIMES, st.decimals(allow_nan=False, allow_infinity=False)),
    st.builds(
        PolicyAnswered,
        TIMES,
        st.integers(min_value=0, max_value=2**31),
        st.lists(st.floats(allow_nan=False, allow_infinity=False), max_size=6).map(tuple),
        st.binary(max_size=8),
        TEXTS,
    ),
    st.builds(ModelRefused, TIMES, TEXTS),
)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal.create(tmp_path / FILE, {"mode": "replay"})


def ticks(chain: HashChain, first: int, count: int) -> CommitBatch:
    batch = CommitBatch()
    batch.entries = [chain.entry(seq, ClockTicked(seq * 10), "[]") for seq in range(first, first + count)]
    return batch


def snapshot(event_id: int, *, kept: bool = False) -> Snapshot:
    digests = [hashlib.sha256(part).hexdigest() for part in (b"{}", b"")]
    return Snapshot(event_id, event_id, "c0de", int(kept), b"{}", b"", *digests)


def order(status: str, filled: int) -> OrderRow:
    return OrderRow("id-1", "w", "entry", "", "SPY", 1, 5, "1.05", status, filled, "0", "0", 1, 2)


@given(EVENTS)
def test_an_event_is_always_read_back_as_it_was_written(event: Event) -> None:
    assert decode_event(encode_event(event)) == event


def test_a_row_is_hashed_over_the_chained_row_before_it_and_its_own_columns() -> None:
    chain = HashChain(1, bytes(32))
    first = chain.entry(1, ClockTicked(7), "[]")
    assert (first.id, first.seq, first.kind, first.payload) == (
        1,
        1,
        "ClockTicked",
        '{"type":"ClockTicked","time_ns":7}',
    )
    text = b'1|7|ClockTicked|{"type":"ClockTicked","time_ns":7}|[]'
    assert first.hash == hashlib.sha256(bytes(32) + text).digest()
    second = chain.entry(2, HaltRequested(8, "operator", "é", "me"), "[]")
    payload = '{"type":"HaltRequested","time_ns":8,"reason":"operator","detail":"é","who":"me","strategy":false}'
    assert second.hash == hashlib.sha256(first.hash + f"2|8|HaltRequested|{payload}|[]".encode()).digest()


def test_the_chain_does_not_run_through_start_up_rows_but_they_hash_onto_it() -> None:
    plain, restarted = HashChain(), HashChain()
    one = plain.entry(1, ClockTicked(1), "[]")
    two = plain.entry(2, ClockTicked(2), "[]")
    assert restarted.entry(1, ClockTicked(1), "[]") == one
    refused = restarted.entry(1, ModelRefused(1, "x"), "[]")
    snapshotted = restarted.entry(1, BrokerSnapshot(1, Decimal(5), (), ()), "[]")
    assert refused.seq is snapshotted.seq is None
    text = b'row 2|1|ModelRefused|{"type":"ModelRefused","time_ns":1,"reason":"x"}|[]'
    assert refused.hash == hashlib.sha256(one.hash + text).digest()
    again = restarted.entry(2, ClockTicked(2), "[]")
    assert (again.id, again.hash) == (4, two.hash)


def test_an_observation_is_journaled_as_sixteen_digits_of_its_hash() -> None:
    observation = Observation(b"\x00\x01", (1,), b"\x02")
    effects = encode_effects((AskPolicy(1, 2, observation), CancelOrder("id")))
    digits = hashlib.sha256(b"\x00\x01\x02").hexdigest()[:16]
    assert effects == (
        f'[{{"type":"AskPolicy","decision":1,"valid_until_ns":2,"observation":"{digits}"}},'
        f'{{"type":"CancelOrder","client_order_id":"id"}}]'
    )
    assert encode_effects(()) == "[]"


def test_what_is_committed_is_read_back_in_order(journal: Journal, tmp_path: Path) -> None:
    chain = HashChain()
    batch = ticks(chain, 1, 700)  # more than one statement holds
    batch.digests = [(500, "d" * 64)]
    batch.snapshots = [snapshot(700)]
    batch.rows = [EquityRow(1, "10.5", "10", "0", 0.25), FillRow("id", 0, 2, "S", 1, 2, "1.10", "0.1", 3, 4)]
    journal.commit(batch)
    journal.close()
    reader = JournalReader(tmp_path / FILE)
    assert list(reader.entries(page=64)) == batch.entries
    assert list(reader.entries(after_id=698)) == batch.entries[698:]
    assert reader.last_entry() == batch.entries[-1]
    assert reader.chain_head() == batch.entries[-1].hash
    assert reader.count() == 700
    assert reader.digests() == {500: "d" * 64}
    assert reader.snapshots() == batch.snapshots
    assert reader.meta() == {"mode": "replay", "schema": "1", "head": f"700:{batch.entries[-1].hash.hex()}"}
    assert [tuple(row) for row in reader.query("SELECT * FROM equity")] == [(1, "10.5", "10", "0", 0.25)]
    assert [row["price"] for row in reader.query("SELECT * FROM fills WHERE cumulative = ?", (2,))] == ["1.10"]
    reader.close()


def test_an_empty_journal_has_no_rows_and_the_first_head(journal: Journal) -> None:
    reader = journal.reader()
    assert list(reader.entries()) == []
    assert (reader.last_entry(), reader.chain_head(), reader.count()) == (None, genesis(reader.meta()), 0)
    assert "head" not in reader.meta()


def test_a_batch_writes_an_order_once_as_it_ended(journal: Journal) -> None:
    batch = ticks(HashChain(), 1, 1)
    batch.rows = [order("new", 0), order("partially_filled", 2), order("filled", 5)]
    journal.commit(batch)
    assert [(r["status"], r["filled"]) for r in journal.reader().query("SELECT * FROM orders")] == [("filled", 5)]


def test_a_time_of_another_age_is_written_as_near_as_sqlite_can_hold_it(journal: Journal) -> None:
    batch = CommitBatch()
    batch.rows.append(msgspec.structs.replace(order("accepted", 0), submitted_ns=10**20, updated_ns=-(10**20)))
    journal.commit(batch)
    (row,) = journal.reader().query("SELECT submitted_ns, updated_ns FROM orders")
    assert tuple(row) == (9_223_372_036_854_775_807, -9_223_372_036_854_775_808)


def test_a_batch_that_fails_leaves_nothing_of_itself(journal: Journal) -> None:
    chain = HashChain()
    journal.commit(ticks(chain, 1, 3))
    doubled = ticks(HashChain(), 3, 2)  # its rows have ids 1 and 2 again
    doubled.rows = [order("new", 0)]
    with pytest.raises(WriteFailed, match="UNIQUE constraint"):
        journal.commit(doubled)
    assert journal.reader().count() == 3
    assert journal.reader().query("SELECT * FROM orders") == []
    journal.commit(ticks(chain, 4, 1))
    assert journal.reader().count() == 4


def test_old_snapshots_go_and_kept_ones_stay(journal: Journal) -> None:
    chain = HashChain()
    for number in range(1, 9):
        batch = ticks(chain, number, 1)
        batch.snapshots = [snapshot(number, kept=number == 2)]
        journal.commit(batch)
    event_ids = [s.event_id for s in journal.reader().snapshots()]
    assert event_ids == [2, *range(9 - SNAPSHOTS_KEPT, 9)]


def test_a_reader_sees_only_whole_commits_and_holds_nothing_up(journal: Journal, tmp_path: Path) -> None:
    chain = HashChain()
    journal.commit(ticks(chain, 1, 10))
    reader = JournalReader(tmp_path / FILE)
    walking = reader.entries(page=4)
    numbers = [next(walking).seq]
    journal.commit(ticks(chain, 11, 10))
    numbers += [entry.seq for entry in walking]
    assert numbers == list(range(1, 21))
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.query("DELETE FROM events")


def test_what_an_interrupted_creation_left_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "journal.new").write_bytes(b"half a journal")
    journal = Journal.create(tmp_path / FILE, {"mode": "replay"})
    assert journal.reader().meta()["mode"] == "replay"
    assert not (tmp_path / "journal.new").exists()


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal here; is this the right --state-dir"):
        JournalReader(tmp_path / FILE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"time,open,high\n1,2,3\n" * 100, b"SQLite format 3\x00" + b"\xff" * 2000])
def test_a_file_that_is_no_database_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(JournalError, match="not a journal or damaged"):
        Journal(tmp_path / FILE)


def test_a_refused_file_with_a_log_beside_it_may_be_a_copy_that_was_put_in_its_place(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"SQLite format 3\x00" + b"\xff" * 2000)
    for is_there in (False, True):
        if is_there:
            (tmp_path / f"{FILE}-wal").write_bytes(b"\xff" * 2000)
        with pytest.raises(JournalError) as caught:
            Journal(tmp_path / FILE)
        assert (f"if a copy was put in its place, {FILE}-wal is not of that copy" in str(caught.value)) is is_there


def test_a_database_of_something_else_is_refused_as_no_journal(tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(tmp_path / FILE)) as other:
        other.execute("CREATE TABLE songs (name)")
    for kind in (Journal, JournalReader):
        with pytest.raises(JournalError, match="not a journal or damaged: no such table: meta; restore it or use a"):
            kind(tmp_path / FILE)


@pytest.mark.parametrize("content", [b"", b"SQLite"])
def test_a_file_that_is_too_short_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(JournalError, match=r"journal\.sqlite: "):
        JournalReader(tmp_path / FILE)


def test_a_journal_of_a_newer_version_is_refused_by_name(journal: Journal, tmp_path: Path) -> None:
    journal.close()
    db = sqlite3.connect(tmp_path / FILE)
    db.execute("UPDATE meta SET value = ? WHERE key = 'schema'", ("3",))
    db.commit()
    db.close()
    with pytest.raises(JournalError, match=r"newer version \(schema 3, this one reads 1 and 2\)"):
        Journal(tmp_path / FILE)


def test_a_journal_cannot_be_made_where_nothing_can_be_written(tmp_path: Path) -> None:
    with pytest.raises(WriteFailed, match="cannot create the journal"):
        Journal.create(tmp_path / "missing" / FILE, {})


def test_alarms_are_effects_like_others() -> None:
    assert encode_effects((RaiseAlarm("halt", "why"),)) == '[{"type":"RaiseAlarm","name":"halt","detail":"why"}]'


def test_a_fill_keeps_its_exact_decimals() -> None:
    fill = OrderFilled(1, "id", "SPY", 1, Decimal("1.10"), 2, 3, Decimal("3.30"), Decimal("0.148920"), 3)
    assert '"price":"1.10"' in encode_event(fill)
    again = decode_event(encode_event(fill))
    assert isinstance(again, OrderFilled)
    assert str(again.cumulative_fees) == "0.148920"


def flip_id(path: Path, row: int, bit: int) -> None:
    """Flip one bit of a row's id where SQLite keeps it: in a leaf (13) of the table's tree, behind the cell's size."""
    content = bytearray(path.read_bytes())
    page_size = int.from_bytes(content[16:18], "big")
    for page in range(page_size, len(content), page_size):
        count = int.from_bytes(content[page + 3 : page + 5], "big") if content[page] == 13 else 0
        for place in range(page + 8, page + 8 + 2 * count, 2):
            cell = page + int.from_bytes(content[place : place + 2], "big")
            while content[cell] & 0x80:
                cell += 1
            if content[cell + 1] == row and b"ClockTicked" in content[cell : cell + 60]:
                content[cell + 1] ^= 1 << bit
                path.write_bytes(content)
                return
    raise AssertionError(row)


IN_PLACE = [(100, 6), (50, 5), (50, 2), (30, 6), (9, 1), (1, 3)]  # row and bit: the id is not between its neighbours'


@pytest.mark.parametrize(("row", "bit"), [*IN_PLACE, (100, 4), (100, 0), (1, 0)])
@pytest.mark.parametrize("page", [2000, 7, 1])
def test_an_id_that_damage_changed_is_read_in_its_place_and_no_reading_is_endless(
    journal: Journal, tmp_path: Path, row: int, bit: int, page: int
) -> None:
    journal.commit(ticks(HashChain(), 1, 100))
    journal.close()
    flip_id(tmp_path / FILE, row, bit)
    with contextlib.closing(JournalReader(tmp_path / FILE)) as reader:
        entries = list(itertools.islice(reader.entries(page=page), 200))
        payloads = list(itertools.islice(reader.payloads("ClockTicked", page=page), 200))
    assert len(entries) <= 100 >= len(payloads)
    assert all(one.id < other.id for one, other in itertools.pairwise(entries))
    if page == 2000 and (row, bit) in IN_PLACE:
        assert [entry.id for entry in entries] == list(range(1, 101))


def tables(path: Path) -> set[str]:
    db = sqlite3.connect(path)
    try:
        return {row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    finally:
        db.close()


def test_a_journal_made_before_there_were_shadows_gets_their_table_when_it_is_opened_for_writing(
    journal: Journal, tmp_path: Path
) -> None:
    journal._db.execute("DROP TABLE shadows")
    journal.close()
    path = tmp_path / FILE
    reader = JournalReader(path)
    assert reader.meta()["schema"] == "1"
    reader.close()
    assert "shadows" not in tables(path)  # reading makes nothing
    again = Journal(path)
    row = ShadowRow(decision=1, model="v2", bar_ns=2, time_ns=3, action="HOLD")
    batch = CommitBatch()
    batch.entries.append(HashChain().entry(1, ClockTicked(3), "[]"))
    batch.rows += [row, row]
    again.commit(batch)
    assert [tuple(row) for row in again.reader().query("SELECT * FROM shadows")] == [
        (1, "v2", 2, 3, "HOLD", None, None, None, None, "")
    ]
    again.close()


def form_of(path: Path) -> str:
    """What the file's header says (SQLite's file format, 1.3, offset 18): 1 a rollback journal, 2 a write-ahead log."""
    return {b"\1\1": "plain", b"\2\2": "log"}[path.read_bytes()[18:20]]


def beside(path: Path) -> set[str]:
    """What stands beside the journal."""
    return {entry.name.removeprefix(path.name) for entry in path.parent.iterdir()} - {""}


def test_a_closed_journal_is_one_plain_file_and_the_next_writer_begins_a_log_again(
    journal: Journal, tmp_path: Path
) -> None:
    file, chain = tmp_path / FILE, HashChain()
    journal.commit(ticks(chain, 1, 3))
    assert (form_of(file), beside(file)) == ("log", {"-wal", "-shm"})
    journal.close()
    assert (form_of(file), beside(file)) == ("plain", set())
    again = Journal(file)
    again.commit(ticks(chain, 4, 1))
    assert (form_of(file), beside(file)) == ("log", {"-wal", "-shm"})
    again.close()
    assert (form_of(file), beside(file)) == ("plain", set())
    assert [entry.seq for entry in JournalReader(file).entries()] == [1, 2, 3, 4]


def test_a_reader_that_outlasts_the_closing_loses_nothing_and_may_go_on(
    journal: Journal, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.journal.journal.SWITCH_S", 0.05)
    file, chain = tmp_path / FILE, HashChain()
    journal.commit(ticks(chain, 1, 3))
    reader = JournalReader(file)
    assert reader.count() == 3
    journal.close()
    assert {"-wal", "-shm"} <= beside(file)
    assert reader.count() == 3
    again = Journal(file)
    again.commit(ticks(chain, 4, 1))
    assert reader.count() == 4
    reader.close()
    again.close()
    assert (form_of(file), beside(file)) == ("plain", set())


def test_what_a_process_that_died_within_a_commit_to_the_plain_file_began_is_taken_back_for_readers_too(
    journal: Journal, tmp_path: Path
) -> None:
    """As at a start, before the log begins. A gateway, and a desk with a mistake, read before anything is written."""
    file, chain = tmp_path / FILE, HashChain()
    journal.commit(ticks(chain, 1, 500))
    journal.close()
    program = (
        "import os, signal, sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None); db.execute('PRAGMA cache_size = 1')\n"
        "db.execute('BEGIN IMMEDIATE'); db.execute('UPDATE events SET payload = payload || payload')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    result = subprocess.run([sys.executable, "-c", program, str(file)], check=False)
    assert (result.returncode, beside(file)) == (-signal.SIGKILL, {"-journal"})
    reader = JournalReader(file)
    assert [entry.event.time_ns for entry in reader.entries()] == [10 * seq for seq in range(1, 501)]
    reader.close()
    assert (form_of(file), beside(file)) == ("plain", set())


def test_a_process_that_dies_between_folding_and_the_plain_form_loses_nothing(journal: Journal, tmp_path: Path) -> None:
    file, chain = tmp_path / FILE, HashChain()
    journal.commit(ticks(chain, 1, 5))
    program = (
        "import os, signal, sys; from pathlib import Path\n"
        "from daemon.journal.journal import Journal; from daemon.journal.rows import CommitBatch, Snapshot\n"
        "journal = Journal(Path(sys.argv[1])); batch = CommitBatch(); batch.digests = [(5, 'd' * 64)]\n"
        "batch.snapshots = [Snapshot(5, 5, 'c0de', 0, b'{}', b'', '', '')]; journal.commit(batch); journal.fold()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    journal.close()
    repository = REPOSITORY
    result = subprocess.run([sys.executable, "-c", program, str(file)], cwd=repository, check=False)
    assert result.returncode == -signal.SIGKILL
    assert form_of(file) == "log"
    reader = JournalReader(file)
    assert (reader.count(), reader.digests(), len(reader.snapshots())) == (5, {5: "d" * 64}, 1)
    reader.close()
    Journal(file).close()


def test_a_writer_opens_beside_many_readers_and_they_see_what_it_writes(journal: Journal, tmp_path: Path) -> None:
    file, chain = tmp_path / FILE, HashChain()
    journal.commit(ticks(chain, 1, 3))
    journal.close()
    readers = [JournalReader(file) for _ in range(20)]
    assert {reader.count() for reader in readers} == {3}
    writer = Journal(file)
    writer.commit(ticks(chain, 4, 2))
    assert {reader.count() for reader in readers} == {5}
    for reader in readers:
        reader.close()
    writer.close()


def test_a_reader_cannot_write_whoever_it_is(journal: Journal, tmp_path: Path) -> None:
    journal.close()
    reader = JournalReader(tmp_path / FILE)
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        reader.query("DELETE FROM meta")
    reader.close()


def test_log_and_index_may_be_read_by_whom_the_file_may_be(tmp_path: Path) -> None:
    former = os.umask(0o027)
    try:
        journal = Journal.create(tmp_path / FILE, {"mode": "replay"})
        os.umask(0o077)  # SQLite gives them the file's mode, whatever this is by then
        journal.commit(ticks(HashChain(), 1, 1))
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
        assert modes == {FILE: 0o640, f"{FILE}-wal": 0o640, f"{FILE}-shm": 0o640}
        journal.close()
    finally:
        os.umask(former)
