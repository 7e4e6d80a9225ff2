"""Verify names the first event that is not what its journal's hashes and events make of it, and finds nothing else.

The journal under test was interrupted once, so start-up rows stand in its middle. Each test changes a copy of it.
"""

from __future__ import annotations

import re
import shutil
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.core.effects import AskPolicy
from daemon.core.events import ClockTicked, ShadowAnswered, ShadowFailed
from daemon.core.state import State
from daemon.engine.engine import Engine
from daemon.engine.recover import code_digest
from daemon.engine.verify import Verified, verify
from daemon.journal.journal import FILE, Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import CommitBatch, HashChain, JournalError, genesis, row_hash
from strategies.option_scalper import SPEC
from strategies.registry import strategy as strategy_named
from tests.support.desks.desk_run import (
    Crash,
    Desk,
    command,
    crashed,
    environment,
    execute,
    read_models,
    table,
    tape_rows,
    verified,
    write_tape,
)
from tests.support.examples import examples
from tests.support.trades import prove_trades

COLUMNS = ("id", "seq", "time_ns", "kind", "payload", "effects", "hash")
OTHER = "0123456789ab"


def interrupt(desk: Desk, path: Path, after: int, code: str | None = None) -> None:
    """Run until the `after`-th step, then crash."""
    steps_left = after

    def hook(boundary: str) -> None:
        nonlocal steps_left
        steps_left -= boundary == "before step"
        if steps_left == 0:
            raise Crash

    assert isinstance(desk.run(path, boundary=hook, group_events=8, code=code).failure, Crash)


@pytest.fixture(scope="module")
def original(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "state"
    interrupt(desk, path, 1060)
    assert desk.run(path).failure is None
    return path


@pytest.fixture
def state(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "state"))


def rows(path: Path) -> list[tuple[Any, ...]]:
    return table(path, "events")


def names(row: tuple[Any, ...]) -> str:
    """How verify calls this row."""
    return f"event row {row[0]}, sequence {row[1]} (" if row[1] is not None else f"event row {row[0]} ("


def test_an_undisturbed_and_a_resumed_journal_are_identical(desk: Desk, original: Path, tmp_path: Path) -> None:
    assert desk.run(tmp_path / "undisturbed").failure is None
    for path in (tmp_path / "undisturbed", original):
        report = verified(path)
        models = sum(map(len, read_models(path).values()))
        count = sum(1 for row in rows(path) if row[1] is not None)
        assert report == Verified(
            events=count,
            stepped=count,
            digests=count // 1000,
            snapshots=len(table(path, "snapshots")),
            read_model_rows=models,
        )
        assert count > 1000
        assert models > 200
        prove_trades(path)
    kinds = [row[3] for row in rows(original)]
    assert kinds.count("RunStarted") == 2


def test_a_journal_is_verified_as_its_killed_run_left_it(desk: Desk, tmp_path: Path) -> None:
    for after in (1, 2, 3, 40, 500):
        interrupt(desk, tmp_path / "state", after)
        assert verified(tmp_path / "state").difference == ""


def test_a_journal_is_verified_beside_the_daemon_that_writes_it(tmp_path: Path) -> None:
    tape = write_tape(tmp_path / "tape.csv", tape_rows(9, 390))
    state = tmp_path / "state"
    process = subprocess.Popen(
        command("daemon", "--dry-run", "--bars", tape, "--state-dir", state),
        cwd=tmp_path,
        env=environment(RLTRADER_JOURNAL__GROUP_EVENTS="4"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    lengths = []
    while process.poll() is None:
        if (state / FILE).exists():
            report = verified(state)
            assert report.difference == ""
            lengths.append(report.events)
    assert process.returncode == 0
    assert len(set(lengths)) >= 3
    assert lengths == sorted(lengths)


def test_a_journal_that_never_ran_is_empty_and_right(desk: Desk, tmp_path: Path) -> None:
    desk.fresh_state(tmp_path / "state").close()
    assert verified(tmp_path / "state") == Verified()


@settings(max_examples=examples(120), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_changed_byte_in_any_column_of_any_event_is_always_found_and_named(
    original: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    before = rows(original)
    row = before[data.draw(st.integers(0, len(before) - 1), label="row")]
    column = data.draw(st.sampled_from(COLUMNS), label="column")
    old = row[COLUMNS.index(column)]
    new: object
    if isinstance(old, str | bytes):
        raw = bytearray(old.encode() if isinstance(old, str) else old)
        place = data.draw(st.integers(0, len(raw) - 1), label="byte")
        raw[place] ^= 1 << data.draw(st.integers(0, 7), label="bit")
        new = bytes(raw)
    elif old is None:
        new = data.draw(st.integers(0, 10_000), label="number")
    elif column == "id":
        new = old + data.draw(st.integers(10_000, 10**12), label="number")
    else:
        new = old ^ (1 << data.draw(st.integers(0, 40), label="bit"))
    path = tmp_path_factory.mktemp("changed")
    shutil.copy(original / FILE, path / FILE)
    cast = "CAST(? AS TEXT)" if isinstance(old, str) else "?"
    assert execute(path, f"UPDATE events SET {column} = {cast} WHERE id = ?", new, row[0]) == 1
    difference = verified(path).difference
    if column == "id":
        follows = row[0] + 1 if row[0] < len(before) else new
        assert difference == f"event row {row[0]} is missing, row {follows} follows"
    elif column == "seq":
        assert difference.startswith((f"event row {row[0]}, sequence {new} (", f"event row {row[0]} ("))
    elif column == "kind":
        assert difference.startswith(names(row).removesuffix("("))
    else:
        assert difference.startswith(names(row))
    assert "hash does not match" in difference or column == "id"


def test_a_deleted_event_is_named(state: Path) -> None:
    for row in (rows(state)[0], rows(state)[700]):
        shutil.copy(state / FILE, state / "copy")
        execute(state, "DELETE FROM events WHERE id = ?", row[0])
        assert verified(state).difference == f"event row {row[0]} is missing, row {row[0] + 1} follows"
        shutil.move(state / "copy", state / FILE)


def test_a_truncated_tail_is_named(state: Path) -> None:
    last = rows(state)[-1][0]
    execute(state, "DELETE FROM events WHERE id > ?", last - 5)
    execute(state, "DELETE FROM snapshots WHERE event_id > ?", last - 5)
    assert verified(state).difference == f"the journal's end is row {last}, found {last - 5}"


def test_an_appended_event_is_named_even_with_the_right_hash(state: Path) -> None:
    reader = JournalReader(state / FILE)
    last = reader.last_entry()
    assert last is not None
    count = reader.count()
    entry = HashChain(last.id + 1, reader.chain_head()).entry(count + 1, ClockTicked(last.time_ns), "[]")
    reader.close()
    execute(state, "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", *entry)
    assert verified(state).difference == f"the journal's end is row {last.id}, found {last.id + 1}"


def test_an_appended_event_with_another_sequence_is_named(state: Path) -> None:
    reader = JournalReader(state / FILE)
    last = reader.last_entry()
    assert last is not None
    entry = HashChain(last.id + 1, reader.chain_head()).entry(9999, ClockTicked(last.time_ns), "[]")
    expected = reader.count() + 1
    reader.close()
    execute(state, "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", *entry)
    assert (
        verified(state).difference
        == f"event row {last.id + 1}, sequence 9999 (ClockTicked): sequence {expected} was expected"
    )


def swap(path: Path, one: int, other: int) -> None:
    """Exchange two rows: each keeps its content and takes the other's place."""
    execute(path, "UPDATE events SET id = -1 WHERE id = ?", one)
    execute(path, "UPDATE events SET id = ? WHERE id = ?", one, other)
    execute(path, "UPDATE events SET id = ? WHERE id = -1", other)


@pytest.mark.parametrize("pair", [(400, 401), (10, 1200)])
def test_swapped_events_are_named(state: Path, pair: tuple[int, int]) -> None:
    row = rows(state)[pair[1] - 1]
    swap(state, *pair)
    assert verified(state).difference.startswith(names((pair[0], *row[1:])))


def test_swapped_start_up_rows_are_named(state: Path) -> None:
    second = [row[0] for row in rows(state) if row[3] == "RunStarted"][1]
    assert rows(state)[second][3] == "ModelVerified"
    swap(state, second, second + 1)
    assert verified(state).difference.startswith(f"event row {second} (ModelVerified): the hash does not match")


@pytest.mark.parametrize(
    ("kind", "field"),
    [("RunStarted", "confidence_min"), ("ModelVerified", "promoted"), ("BrokerSnapshot", "cash")],
)
def test_a_changed_start_up_row_is_named(state: Path, kind: str, field: str) -> None:
    row = [row for row in rows(state) if row[3] == kind][-1]
    assert row[1] is None
    payload = re.sub(rf'("{field}":"?)', r"\g<1>1", row[4])
    assert payload != row[4]
    execute(state, "UPDATE events SET payload = ? WHERE id = ?", payload, row[0])
    assert verified(state).difference.startswith(f"event row {row[0]} ({kind}): the hash does not match")


def rehashed(path: Path, row_id: int, column: str, value: str) -> None:
    """Change a row and hash it and all that follow again, as one would who covers his tracks."""
    reader = JournalReader(path / FILE)
    entries, head = list(reader.entries()), genesis(reader.meta())
    reader.close()
    fresh = []
    for entry in entries:
        now = entry
        if entry.id == row_id:
            now = entry._replace(payload=value) if column == "payload" else entry._replace(effects=value)
        now = now._replace(hash=row_hash(head, *now[:6]))
        head = now.hash if now.seq is not None else head
        fresh.append((now.payload, now.effects, now.hash, now.id))
    db = sqlite3.connect(path / FILE)
    db.executemany("UPDATE events SET payload = ?, effects = ?, hash = ? WHERE id = ?", fresh)
    db.execute("UPDATE meta SET value = ? WHERE key = 'head'", (f"{fresh[-1][3]}:{fresh[-1][2].hex()}",))
    db.commit()
    db.close()


def test_effects_that_do_not_follow_are_named_even_with_all_hashes_made_again(state: Path) -> None:
    row = next(row for row in rows(state) if "SubmitOrder" in row[5])
    effects = re.sub(r'"quantity":(\d+)', '"quantity":9999', row[5])
    rehashed(state, row[0], "effects", effects)
    assert verified(state).difference.startswith(f"event row {row[0]}, sequence {row[1]} ({row[3]}): effects differ")


def test_a_fill_that_never_happened_is_named_even_with_all_hashes_made_again(state: Path) -> None:
    row = next(row for row in rows(state) if row[3] == "OrderFilled")
    payload = re.sub(r'"price":"[\d.]+"', '"price":"0.01"', row[4])
    rehashed(state, row[0], "payload", payload)
    difference = verified(state).difference
    assert difference.startswith(f"event row {row[0]}, sequence {row[1]} (OrderFilled): the journal holds OrderFilled")
    assert "follows from the events before it" in difference


MADE_WITH = "event row 1 (RunStarted): the hash does not match: this row, or what the journal was made with"


@pytest.mark.parametrize(
    ("sql", "difference"),
    [
        ("UPDATE digests SET digest = 'x' WHERE seq = 1000", "event row 1003, sequence 1000 ("),
        ("DELETE FROM digests WHERE seq = 1000", "event row 1003, sequence 1000 ("),
        ("INSERT INTO digests VALUES (17, 'x')", "a state digest stands at event 17"),
        ("UPDATE meta SET value = '3:00' WHERE key = 'head'", "the journal's end is row 3, found"),
        ("DELETE FROM meta WHERE key = 'head'", "the journal's end is row none"),
        ("UPDATE meta SET value = 'x' WHERE key = 'epoch'", MADE_WITH),
        ("UPDATE meta SET value = 'live' WHERE key = 'account'", MADE_WITH),
        ("DELETE FROM meta WHERE key = 'feed'", MADE_WITH),
        ("UPDATE meta SET value = 'x' WHERE key = 'tape_sha256'", MADE_WITH),
        ("UPDATE meta SET value = 'recorded' WHERE key = 'synthetic'", MADE_WITH),
        ("INSERT INTO meta VALUES ('note', 'x')", MADE_WITH),
    ],
)
def test_changed_digests_and_meta_are_found(state: Path, sql: str, difference: str) -> None:
    assert execute(state, sql) == 1
    assert verified(state).difference.startswith(difference)


@pytest.mark.parametrize(
    "change",
    [
        "state = CAST(replace(CAST(state AS TEXT), '\"seq\":', '\"seq\":1') AS BLOB)",
        'market = CAST(replace(CAST(market AS TEXT), \'"cash":"\', \'"cash":"1\') AS BLOB)',
        "digest = 'x'",
        "seq = seq + 1",
        "code = 'x'",
        "event_id = event_id + 1",
        "event_id = event_id + 100000",
    ],
)
@pytest.mark.parametrize("which", ["min", "max"])
def test_a_changed_snapshot_is_found(state: Path, change: str, which: str) -> None:
    where = f"event_id = (SELECT {which}(event_id) FROM snapshots)"
    assert execute(state, f"UPDATE snapshots SET {change} WHERE {where}") == 1
    assert "snapshot at event" in verified(state).difference


def test_a_snapshot_that_was_marked_as_kept_is_found(state: Path) -> None:
    """The oldest one: the first snapshot of a later run may be kept or not, as that run's start was."""
    oldest = "event_id = (SELECT min(event_id) FROM snapshots)"
    assert execute(state, f"UPDATE snapshots SET kept = 1 - kept WHERE {oldest}") == 1
    assert "snapshot at event" in verified(state).difference


def other_than(value: object) -> object:
    """Another value of the same kind."""
    match value:
        case int() | float():
            return value + 10**12
        case bytes():
            return value + b"9"
        case _:
            return f"{value}9"


@pytest.mark.parametrize("name", ["decisions", "orders", "fills", "equity"])
def test_a_changed_lost_or_added_read_model_row_is_found(original: Path, tmp_path: Path, name: str) -> None:
    db = sqlite3.connect(original / FILE)
    columns = [row[1] for row in db.execute(f"PRAGMA table_info({name})")]
    db.close()
    first = table(original, name)[0]
    key = f"{columns[0]} = ?"
    for column, old in zip(columns, first, strict=True):
        path = tmp_path / column
        path.mkdir()
        shutil.copy(original / FILE, path / FILE)
        execute(path, f"UPDATE {name} SET {column} = ? WHERE {key}", other_than(old), first[0])
        assert f"read model {name}: the row with {columns[0]} " in verified(path).difference, column
    execute(path, f"DELETE FROM {name} WHERE {key}", first[0])
    assert f"read model {name}: the row with {columns[0]} " in verified(path).difference
    shutil.copy(original / FILE, path / FILE)
    new_row = (10**18 if isinstance(first[0], int) else "made up", *first[1:])
    execute(path, f"INSERT INTO {name} VALUES ({','.join('?' * len(new_row))})", *new_row)
    assert verified(path).difference.endswith(f"{columns[0]} {new_row[0]} does not follow from the events")


def test_segments_of_other_code_are_checked_by_hash_and_named(desk: Desk, tmp_path: Path) -> None:
    path = tmp_path / "state"
    interrupt(desk, path, 700, code=OTHER)  # the same code under another name: only the name matters here
    assert desk.run(path).failure is None
    events = rows(path)
    turn = [row[0] for row in events if row[3] == "RunStarted"][1]
    report = verified(path)
    assert report.difference == ""
    assert report.events == sum(1 for row in events if row[1] is not None)
    assert set(report.other_code) <= {OTHER, code_digest()}  # what OTHER left under way this code finished, unstepped
    assert report.other_code[OTHER] >= turn - 1
    assert report.other_code.get(code_digest(), 0) < 10
    assert 300 < report.stepped < report.events
    verification = verified(path, code=OTHER)
    assert verification.difference == ""
    assert list(verification.other_code) == [code_digest()]
    assert verification.stepped >= sum(1 for row in events[: turn - 1] if row[1] is not None)
    victim = events[100]
    execute(path, "UPDATE events SET effects = '[] ' WHERE id = ?", victim[0])
    assert verified(path).difference.startswith(
        f"event row {victim[0]}, sequence {victim[1]} ({victim[3]}): the hash does not match"
    )


def test_an_order_that_other_code_continued_after_its_end_is_not_compared(desk: Desk, tmp_path: Path) -> None:
    """A cancelled order may still be filled, after other code took over."""
    crashed(desk, tmp_path, 900)
    assert desk.run(tmp_path, code="othercode123").failure is None
    order, *_, ended_ns = table(tmp_path, "orders")[0]
    (taken_over_ns,) = {row[2] for row in table(tmp_path, "events") if row[3] == "CodeChanged"}
    execute(tmp_path, "UPDATE orders SET cost = '1', updated_ns = ? WHERE client_order_id = ?", taken_over_ns, order)
    assert verified(tmp_path).difference == ""
    execute(tmp_path, "UPDATE orders SET updated_ns = ? WHERE client_order_id = ?", ended_ns, order)
    assert f"the row with client_order_id {order} is missing or differs" in verified(tmp_path).difference


def test_a_file_that_is_damaged_in_its_pages_is_reported(state: Path) -> None:
    raw = bytearray((state / FILE).read_bytes())
    page = raw.index(b'"BarClosed"') // 8192 * 8192  # one that holds events: others may be free
    raw[page : page + 8192] = bytes(8192)
    (state / FILE).write_bytes(raw)
    assert verified(state).difference != ""


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal here"):
        verify(tmp_path / FILE, code_digest(), strategy_named)
    (tmp_path / FILE).write_bytes(b"no database" * 100)
    with pytest.raises(JournalError, match="not a journal or damaged"):
        verify(tmp_path / FILE, code_digest(), strategy_named)


def test_a_row_before_the_first_start_is_named(tmp_path: Path) -> None:
    journal = Journal.create(tmp_path / FILE, {})
    start = journal.reader().chain_head()
    journal.close()
    entry = HashChain(1, start).entry(1, ClockTicked(5), "[]")
    execute(tmp_path, "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", *entry)
    assert verified(tmp_path).difference == "row 1 (ClockTicked) precedes the first RunStarted"


def test_the_report_is_plain_data() -> None:
    assert msgspec.json.decode(msgspec.json.encode(Verified(events=3)), type=Verified).events == 3


# --- candidates ---------------------------------------------------------------------------------------------------


class Doubter:
    """A candidate that always points at the last action, and fails on every fifth question."""

    shadow = "v9"

    def shadow_answer(self, question: AskPolicy, state: State[Any]) -> ShadowAnswered | ShadowFailed:
        if question.decision % 5 == 0:
            return ShadowFailed(state.now_ns, question.decision, "planted", "v9")
        width = len(SPEC.actions)
        answer = tuple(float(place == width - 1) for place in range(width))
        return ShadowAnswered(state.now_ns, question.decision, answer, b"", "v9")


@pytest.fixture(scope="module")
def shadowed(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("shadowed") / "state"

    def with_a_candidate(engine: Engine) -> None:
        engine._shadow = Doubter()

    assert desk.run(path, engine_made=with_a_candidate).failure is None
    return path


def test_a_journal_with_a_candidate_s_answers_is_identical_and_its_rows_are_compared(
    shadowed: Path, tmp_path: Path
) -> None:
    decisions = [row[0] for row in table(shadowed, "decisions") if row[1] == "policy"]
    rows = table(shadowed, "shadows")
    assert [row[0] for row in rows] == decisions
    assert {row[0] for row in rows if row[-1] == "planted"} == {n for n in decisions if n % 5 == 0}
    assert {row[4] for row in rows if row[-1] == ""} == {SPEC.actions[-1]}
    report = verified(shadowed)
    assert report.difference == ""
    path = Path(shutil.copytree(shadowed, tmp_path / "state"))
    execute(path, "UPDATE shadows SET action = 'BUY_CALL' WHERE decision = ?", decisions[0])
    assert f"read model shadows: the row with decision {decisions[0]} " in verified(path).difference


def test_a_candidate_leaves_orders_fills_decisions_and_equity_as_they_are_without_one(
    original: Path, shadowed: Path
) -> None:
    for name in ("orders", "fills", "decisions", "equity"):
        assert table(shadowed, name) == table(original, name)
    assert len(table(shadowed, "fills")) > 10


def test_a_journal_made_before_there_were_shadows_is_verified_and_gone_on_with(
    desk: Desk, state: Path, tmp_path: Path
) -> None:
    assert table(state, "shadows") == []
    execute(state, "DROP TABLE shadows")
    assert verified(state).difference == ""
    assert desk.run(state).failure is None
    assert table(state, "shadows") == []
    assert verified(state).difference == ""


def test_a_daemon_that_starts_while_a_stopped_desk_is_verified_is_not_held_up(state: Path) -> None:
    """The file of a stopped desk is plain: a reader that held it would let nobody commit. Verify begins again."""
    *_, before_last, last = rows(state)
    journals: list[Journal] = []

    def starting(name: str, symbols: tuple[str, ...], config: str) -> Any:
        if not journals:
            journal = Journal(state / FILE)
            journal._db.execute("PRAGMA busy_timeout = 10")
            batch = CommitBatch()
            batch.entries.append(HashChain(last[0] + 1, last[6]).entry(last[1] + 1, ClockTicked(last[2]), "[]"))
            journal.commit(batch)
            journals.append(journal)
        return strategy_named(name, symbols, config)

    assert (before_last[0], before_last[1]) == (last[0] - 1, last[1] - 1)
    report = verify(state / FILE, code_digest(), starting)
    assert (report.difference, report.events) == ("", last[1] + 1)
    journals[0].close()


def test_a_file_that_others_write_again_and_again_is_not_judged(state: Path) -> None:
    def touching(name: str, symbols: tuple[str, ...], config: str) -> Any:
        execute(state, "INSERT INTO digests SELECT max(seq) + 1, 'x' FROM digests")
        return strategy_named(name, symbols, config)

    with pytest.raises(JournalError, match="others write it again and again"):
        verify(state / FILE, code_digest(), touching)
