"""A follower has the state that recovery has, whatever stands in the journal's place, or says why it has not."""

from __future__ import annotations

import hashlib
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.core.events import BarClosed
from daemon.core.state import Identity, digest
from daemon.engine.follow import Follower
from daemon.journal.journal import FILE, Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import HashChain, row_hash
from strategies.kit.contract import Bar
from tests.support.desks.desk_run import Desk, crashed, execute, table, tape_rows, write_tape


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(1, 75)))


@pytest.fixture(scope="module")
def original(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A whole run, and the engine's own digest of its last state."""
    path = tmp_path_factory.mktemp("original") / "state"
    run = desk.run(path, snapshot_events=100_000)
    assert run.failure is None
    return path, run.digest


@pytest.fixture
def state(original: tuple[Path, str], tmp_path: Path) -> Path:
    return Path(shutil.copytree(original[0], tmp_path / "state"))


@pytest.fixture
def follower(state: Path) -> Iterator[Follower]:
    new_follower = Follower(state)
    yield new_follower
    new_follower.close()


def digest_of(follower: Follower) -> str:
    assert follower.state is not None
    return digest(follower.state)


def cut(state: Path, rows: int) -> list[tuple[object, ...]]:
    """Take the rows beyond `rows` out of the journal, and its snapshots; returns those rows."""
    rest = [row for row in table(state, "events") if row[0] > rows]
    execute(state, "DELETE FROM events WHERE id > ?", rows)
    execute(state, "DELETE FROM snapshots")
    return rest


def add(state: Path, rows: list[tuple[object, ...]]) -> None:
    for row in rows:
        execute(state, "INSERT INTO events VALUES (?, ?, ?, ?, ?, ?, ?)", *row)


def head_of(state: Path) -> bytes:
    reader = JournalReader(state / FILE)
    try:
        return reader.chain_head()
    finally:
        reader.close()


def test_from_a_snapshot_and_from_the_first_row_it_comes_to_the_same_state(
    state: Path, follower: Follower, original: tuple[Path, str]
) -> None:
    follower.advance()
    assert (follower.problem, follower.caught_up, digest_of(follower)) == ("", True, original[1])
    execute(state, "DELETE FROM snapshots")
    whole = Follower(state / FILE)
    stepped = 0
    while not whole.caught_up:
        stepped += len(whole.advance(limit_rows=50))
        assert whole.problem == ""
    whole.close()
    assert stepped == len(table(state, "events"))
    assert digest_of(whole) == original[1]


def test_what_is_added_is_stepped_once_and_told_with_its_step(
    state: Path, follower: Follower, original: tuple[Path, str]
) -> None:
    rest = cut(state, 300)
    while not follower.caught_up:
        follower.advance(120)
    assert (follower.last_id, follower.advance()) == (300, [])
    add(state, rest[:10])
    entries = follower.advance()
    assert [entry.id for entry, _ in entries] == list(range(301, 311))
    last, step = entries[-1]
    assert step is not None
    assert (step.state.seq, step.state) == (last.seq, follower.state)
    add(state, rest[10:])
    assert len(follower.advance()) == len(rest) - 10
    assert digest_of(follower) == original[1]


def test_a_journal_that_takes_the_place_of_another_is_followed_from_its_own_start(
    state: Path, follower: Follower, desk: Desk, tmp_path: Path
) -> None:
    follower.advance()
    before, generation = follower.state, follower.generation
    other = tmp_path / "other"
    short = desk.run(other, engine_made=lambda engine: engine.stop("at once"))
    assert short.failure is None
    shutil.move(other / FILE, state / FILE)
    for leftover in ("-wal", "-shm"):
        (state / (FILE + leftover)).unlink(missing_ok=True)
    follower.advance()
    assert (follower.problem, follower.generation) == ("", generation + 1)
    assert before is not None
    assert digest_of(follower) == short.digest != digest(before)


def test_a_journal_written_over_in_its_place_is_noticed(state: Path, follower: Follower) -> None:
    follower.advance()
    cut(state, 100)
    assert follower.advance() == []
    assert "was replaced" in follower.problem
    while not follower.caught_up:
        follower.advance()
    assert (follower.problem, follower.last_id) == ("", 100)


def test_a_missing_journal_is_said_and_followed_when_it_comes(
    state: Path, follower: Follower, original: tuple[Path, str]
) -> None:
    (state / FILE).rename(state / "away")
    assert follower.advance() == []
    assert "no journal here" in follower.problem
    assert follower.state is None
    (state / "away").rename(state / FILE)
    follower.advance()
    assert (follower.problem, digest_of(follower)) == ("", original[1])


def test_a_journal_locked_for_a_moment_is_followed_afterwards(
    state: Path, follower: Follower, original: tuple[Path, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.engine.follow.BUSY_MS", 10)
    rest = cut(state, 300)
    execute(state, "PRAGMA journal_mode = DELETE")  # in which a writer can shut readers out
    while not follower.caught_up:
        follower.advance()
    state_before = follower.state
    add(state, rest)
    db = sqlite3.connect(state / FILE, isolation_level=None)
    db.execute("BEGIN EXCLUSIVE")
    assert follower.advance() == []
    assert "cannot be read at the moment: database is locked" in follower.problem
    assert follower.state is state_before
    db.execute("ROLLBACK")
    db.close()
    assert len(follower.advance()) == len(rest)
    assert (follower.problem, digest_of(follower), follower.generation) == ("", original[1], 1)


def test_a_damaged_row_ends_the_following_at_the_row_before(state: Path, follower: Follower) -> None:
    rest = cut(state, 300)
    while not follower.caught_up:
        follower.advance()
    state_before = follower.state
    add(state, rest[:5])
    execute(state, "UPDATE events SET payload = replace(payload, '1', '2') WHERE id = 303")
    assert [entry.id for entry, _ in follower.advance()] == [301, 302]
    assert "damaged at event row 303" in follower.problem
    assert follower.state is not state_before
    assert follower.last_id == 302
    assert follower.advance() == []
    assert "damaged at event row 303" in follower.problem


def rewritten(state: Path, row: int) -> None:
    """Let row `row` have caused something else, with all hashes right: a journal that other code wrote."""
    rows = table(state, "events")
    head = next(entry[6] for entry in reversed(rows[: row - 1]) if entry[1] is not None)
    for number, seq, time_ns, kind, payload, effects, _ in rows[row - 1 :]:
        other_effects = '[{"type":"Unheard"}]' if number == row else effects
        row_digest = row_hash(head, number, seq, time_ns, kind, payload, other_effects)
        head = head if seq is None else row_digest
        execute(state, "UPDATE events SET effects = ?, hash = ? WHERE id = ?", other_effects, row_digest, number)


def test_other_code_that_did_otherwise_cannot_be_followed_until_a_snapshot_of_this_code_stands_after_it(
    desk: Desk, state: Path, original: tuple[Path, str], tmp_path: Path
) -> None:
    other = tmp_path / "other"
    assert desk.run(other, code="0123456789ab", snapshot_events=100_000).failure is None
    execute(other, "DELETE FROM snapshots")
    rewritten(other, 200)
    follower = Follower(other)
    assert [entry.id for entry, _ in follower.advance()] == list(range(1, 200))
    assert "cannot be followed beyond event row 200" in follower.problem
    assert "other code (0123456789ab) wrote it" in follower.problem
    follower.close()
    assert follower.advance() == []
    assert "other code (0123456789ab) wrote it" in follower.problem  # also for who closes it between two looks
    (snapshot,) = table(state, "snapshots")
    execute(other, f"INSERT INTO snapshots VALUES ({','.join('?' * len(snapshot))})", *snapshot)
    assert follower.advance() == []
    assert (follower.problem, follower.caught_up, digest_of(follower)) == ("", True, original[1])
    follower.close()


def test_a_takeover_by_another_release_is_followed_without_a_snapshot(desk: Desk, tmp_path: Path) -> None:
    crashed(desk, tmp_path, 200, code="othercode123", snapshot_events=10**6)
    follower = Follower(tmp_path)
    follower.advance()
    taken_over = desk.run(tmp_path)
    assert "CodeChanged" in [row[3] for row in table(tmp_path, "events")]
    execute(tmp_path, "DELETE FROM snapshots")
    while follower.advance():
        pass
    assert (follower.problem, follower.caught_up, digest_of(follower)) == ("", True, taken_over.digest)
    follower.close()


def test_a_row_whose_step_raised_is_passed_over_and_a_quarantined_one_left_out(desk: Desk, tmp_path: Path) -> None:
    state = tmp_path / "state"
    assert desk.run(state, engine_made=lambda engine: engine.stop("at once")).failure is None
    bar = BarClosed(1, Bar("SPY", 0, 1.0, 1.0, 1.0, 1.0, 1.0))
    follower = Follower(state)
    follower.advance()
    state_before, last = follower.state, follower.last_id
    chain = HashChain(last + 1, head_of(state))
    add(state, [tuple(chain.entry(None, bar, mark)) for mark in ('{"raised":"x"}', '{"quarantined":"x"}')])
    assert [(entry.id, step) for entry, step in follower.advance()] == [(last + 1, None), (last + 2, None)]
    assert (follower.problem, follower.state) == ("", state_before)
    follower.close()


@pytest.mark.parametrize("state_of", ["x", '{"strategy":1}'])
def test_a_snapshot_that_cannot_be_used_is_passed_over(
    state: Path, follower: Follower, original: tuple[Path, str], state_of: str
) -> None:
    """Damaged, or whole and of other code's shape: the rows before it lead to the same state."""
    digest = hashlib.sha256(state_of.encode()).hexdigest() if state_of.startswith("{") else "0" * 64
    execute(state, "UPDATE snapshots SET state = ?, digest = ?", state_of.encode(), digest)
    while not follower.caught_up:
        follower.advance()
        assert follower.problem == ""
    assert digest_of(follower) == original[1]


def test_a_file_that_is_no_journal_is_said(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"not a database" * 100)
    follower = Follower(tmp_path)
    assert follower.advance() == []
    assert "not a journal or damaged" in follower.problem
    (tmp_path / FILE).unlink()
    Journal.create(tmp_path / FILE, dict.fromkeys(Identity.__struct_fields__, "unheard")).close()
    assert follower.advance() == []
    assert "strategy is 'unheard', expected one of" in follower.problem
    assert (follower.state, follower.caught_up) == (None, False)
    follower.close()
    assert follower.problem == "closed"
