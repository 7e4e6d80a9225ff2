"""A journal is rotated: the chain goes on in a new file, the old one stays provable, and every reader goes on."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from daemon.engine.follow import Follower
from daemon.engine.state_dir import check_follows, rotate
from daemon.journal.journal import FILE, Journal
from daemon.journal.reader import ROTATED, JournalReader
from daemon.journal.rows import Base, JournalError, base_of
from daemon.reports.archive import archive, disk_is_low
from daemon.reports.end_of_day import newest_head, write_report
from tests.support.desks.desk_run import (
    Desk,
    environment,
    execute,
    read_models,
    recovered,
    rltraderctl,
    rltraderd,
    state_digest,
    stopped,
    summary_of,
    table,
    verified,
)
from tests.support.desks.long_past import EVERY, operations, put_before
from tests.support.trades import prove_trades

INDEXES = {
    "events_by_kind",
    "events_unchained",
    "decisions_by_time",
    "orders_by_time",
    "orders_by_change",
    "orders_by_symbol",
    "fills_by_time",
    "shadows_by_time",
}


def test_a_desk_that_is_rotated_half_way_ends_as_one_that_was_not(desk: Desk, half: Path, tmp_path: Path) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(half, whole)
    undisturbed = desk.run(whole)
    before = state_digest(half)
    result = rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "rotated at event row" in result.stdout
    assert state_digest(half) == before
    assert desk.run(half).digest == undisturbed.digest
    assert read_models(half) == read_models(whole)
    assert prove_trades(half) == prove_trades(whole)
    assert [row[:6] for row in table(half, "events")] == [
        row[:6] for row in table(whole, "events") if row[0] >= before[2]
    ]
    assert [row[6] for row in table(half, "events")][-1] == table(whole, "events")[-1][6]  # one chain


def test_each_part_is_proven_alone_and_both_fit_together(desk: Desk, half: Path, tmp_path: Path) -> None:
    rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
    assert desk.run(half).failure is None
    (old,) = (half / ROTATED).iterdir()
    new = rltraderctl("verify", "--state-dir", half, cwd=tmp_path)
    assert new.returncode == 0, new.stdout
    assert "are in the file before this one" in new.stdout
    assert "no difference found" in new.stdout
    result = rltraderctl("verify", "--state-dir", half, "--file", old, cwd=tmp_path)
    assert (result.returncode, "identical" in result.stdout) == (0, True)
    check_follows(old, half / FILE)
    reader = JournalReader(half / FILE)
    base = base_of(reader.meta())
    reader.close()
    assert isinstance(base, Base)
    report = verified(half)
    assert report.before == base.row
    assert report.other_code == {}
    assert report.stepped > 100


def test_rotating_twice_makes_three_parts_that_fit(desk: Desk, half: Path, tmp_path: Path) -> None:
    rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
    stopped(desk, half, 900)
    assert rltraderctl("rotate", "--state-dir", half, cwd=tmp_path).returncode == 0
    assert desk.run(half).failure is None
    parts = [*sorted((half / ROTATED).iterdir()), half / FILE]
    assert len(parts) == 3
    for part in parts:
        result = rltraderctl("verify", "--state-dir", half, "--file", part, cwd=tmp_path)
        assert result.returncode == 0, result.stdout
    parts[0].unlink()
    parts[1].rename(tmp_path / "away.sqlite")
    shutil.copy(tmp_path / "away.sqlite", parts[1])
    assert rltraderctl("verify", "--state-dir", half, cwd=tmp_path).returncode == 0


def test_a_part_of_another_journal_does_not_fit(desk: Desk, half: Path, tape: Path, tmp_path: Path) -> None:
    other = stopped(Desk(tape, sizing__max_contracts=2), tmp_path / "other", 700)
    rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
    rltraderctl("rotate", "--state-dir", other, cwd=tmp_path)
    (other_part,) = (other / ROTATED).iterdir()
    with pytest.raises(JournalError, match="does not go on where"):
        check_follows(other_part, half / FILE)
    (own_part,) = (half / ROTATED).iterdir()
    shutil.copy(other_part, own_part)
    result = rltraderctl("verify", "--state-dir", half, cwd=tmp_path)
    assert result.returncode == 2
    assert "or these are not of one journal" in result.stderr


def test_a_changed_row_of_a_rotated_journal_is_found(desk: Desk, half: Path, tmp_path: Path) -> None:
    rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
    assert desk.run(half).failure is None
    execute(half, "UPDATE events SET time_ns = time_ns + 1 WHERE id = (SELECT min(id) FROM events)")
    assert "the hash does not match" in verified(half).difference


def test_every_row_of_a_rotated_journal_is_stepped_again_however_many_snapshots_follow(
    desk: Desk, half: Path, tmp_path: Path
) -> None:
    rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
    assert desk.run(half, snapshot_events=10).failure is None
    chained = [row for row in table(half, "events") if row[1] is not None]
    report = verified(half)
    assert (report.difference, report.stepped) == ("", len(chained) - 1)  # the first is in the file before, too
    execute(half, "DELETE FROM snapshots WHERE event_id = (SELECT min(id) FROM events)")
    assert "with which this file begins, is missing" in verified(half).difference


@pytest.mark.parametrize("damage", ["UPDATE snapshots SET digest = 'x'", "DELETE FROM snapshots"])
def test_without_a_whole_snapshot_a_rotated_journal_goes_on_from_that_of_the_file_before(
    half: Path, tmp_path: Path, damage: str
) -> None:
    before = state_digest(half)
    rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
    execute(half, damage)
    assert state_digest(half) == before
    (former,) = (half / ROTATED).iterdir()
    content = bytearray(former.read_bytes())
    content[:16] = bytes(16)  # no SQLite file any more
    former.write_bytes(content)
    with pytest.raises(JournalError, match=r"no snapshot can be used .* are in the file before this one"):
        state_digest(half)
    former.unlink()
    with pytest.raises(JournalError, match=r"no snapshot can be used .* are in the file before this one"):
        state_digest(half)


def test_a_file_of_another_journal_gives_no_snapshot(half: Path, tape: Path, tmp_path: Path) -> None:
    other = stopped(Desk(tape, sizing__max_contracts=2), tmp_path / "other", 700)
    for state in (half, other):
        rltraderctl("rotate", "--state-dir", state, cwd=tmp_path)
    (former,), (other_part,) = ((state / ROTATED).iterdir() for state in (half, other))
    shutil.copy(other_part, former)
    execute(half, "DELETE FROM snapshots")
    with pytest.raises(JournalError, match="no snapshot can be used"):
        state_digest(half)


@pytest.mark.parametrize("how", ["running", "killed", "held", "held by an idle reader", "at once again"])
def test_a_journal_that_is_not_at_rest_is_not_rotated(
    desk: Desk, half: Path, tape: Path, tmp_path: Path, how: str
) -> None:
    if how == "running":
        state_dir = desk.fresh_state(half)
        result = rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
        state_dir.journal.close()
        state_dir.close()
        message = f"the desk runs (process {os.getpid()}): stop it, rotate, start it"
    elif how == "killed":
        bar = [row[0] for row in table(half, "events") if row[3] == "BarClosed"][-1]
        execute(half, "DELETE FROM events WHERE id > ?", bar)
        execute(half, "DELETE FROM snapshots WHERE event_id > ?", bar)
        result = rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
        message = "did not stop cleanly"
    elif how.startswith("held"):
        journal = Journal(half / FILE)
        journal._db.execute("PRAGMA journal_mode = WAL")
        if how == "held":
            journal._db.execute("BEGIN")
        journal._db.execute("SELECT count(*) FROM events").fetchone()
        execute(half, "INSERT OR REPLACE INTO meta VALUES ('note', 'x')")
        result = rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
        journal._db.close()
        message = "still has the journal open"
    else:
        rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
        result = rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
        message = "nothing to rotate"
    assert result.returncode == 2
    assert message in result.stderr
    assert (half / FILE).exists()


def test_a_rotation_that_fails_leaves_the_journal_as_it_was(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (half / FILE).read_bytes()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("daemon.engine.state_dir.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        rotate(half)
    assert (half / FILE).read_bytes() == before
    assert [path.name for path in half.glob("*.rotating")] == []


def test_a_disk_that_fails_at_its_last_step_is_told_so_and_the_next_start_completes_it(
    desk: Desk, half: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    last, renamed = table(half, "events")[-1][0], Path.rename

    def failing(path: Path, target: Path) -> Path:
        if path.suffix == ".rotating":
            raise OSError(5, "Input/output error")
        return renamed(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing)
        with pytest.raises(JournalError, match=r"its rotation is not complete: .* the next start completes it"):
            rotate(half)
    assert not (half / FILE).exists()
    assert desk.run(half).failure is None
    assert table(half, "events")[0][0] == last


def test_a_rotation_that_is_killed_between_its_last_steps_is_finished_by_the_next_start(
    desk: Desk, half: Path, tmp_path: Path
) -> None:
    before = state_digest(half)
    rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
    (half / FILE).rename(half / "journal.rotating")  # as it stands before its last rename
    assert desk.run(half).failure is None
    assert table(half, "events")[0][0] == before[2]
    assert verified(half).difference == ""


def test_what_looks_at_a_desk_sees_it_whole_after_a_rotation_that_was_killed(
    desk: Desk, half: Path, tmp_path: Path
) -> None:
    rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
    looks = (
        ("status", "--state-dir"),
        ("status", "--desks"),
        ("verify", "--state-dir"),
        ("decisions", "--state-dir"),
        ("trades", "--state-dir"),
    )
    whole = [rltraderctl(*look, half, cwd=tmp_path) for look in looks]
    (half / FILE).rename(half / "journal.rotating")  # as it stands before its last rename
    for look, before in zip(looks, whole, strict=True):
        now = rltraderctl(*look, half, cwd=tmp_path)
        assert (now.returncode, now.stdout) == (0, before.stdout), (look, now.stderr)
    follower = Follower(half)
    seq = caught_up(follower)
    assert not (half / FILE).exists()  # who only looks completes nothing
    desk.run(half)
    assert caught_up(follower) > seq > 0
    follower.close()


def test_a_file_of_another_name_beside_the_rotated_ones_is_none_of_them(desk: Desk, half: Path, tmp_path: Path) -> None:
    rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
    shutil.copy(half / FILE, half / ROTATED / "journal-2026-01-05.sqlite")  # a copy, as the manual names them
    (half / ROTATED / "notes.sqlite").write_text("no database")
    for look in ("verify", "events"):
        result = rltraderctl(look, "--state-dir", half, cwd=tmp_path)
        assert result.returncode == 0, (look, result.stderr)
    (half / FILE).rename(half / "journal.rotating")
    assert desk.run(half).failure is None


def caught_up(follower: Follower) -> int:
    """Follow to the newest row; returns the sequence."""
    for _ in range(1000):
        follower.advance()
        assert follower.problem == ""
        if follower.caught_up:
            break
    assert follower.state is not None
    return follower.state.seq


def test_a_follower_goes_on_with_the_file_that_took_the_place(desk: Desk, half: Path, tmp_path: Path) -> None:
    follower = Follower(half)
    seq = caught_up(follower)
    assert rltraderctl("rotate", "--state-dir", half, cwd=tmp_path).returncode == 0
    desk.run(half)
    assert caught_up(follower) > seq
    follower.close()


def test_what_looks_at_a_desk_goes_on_after_a_rotation(half: Path, tmp_path: Path) -> None:
    looks = (("status",), ("status", "--json"), ("decisions", "--limit", "5"), ("events", "--limit", "5"))
    rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
    for command, *more in looks:
        result = rltraderctl(command, "--state-dir", half, *more, cwd=tmp_path)
        assert result.returncode == 0, (command, result.stderr)
    halted = rltraderctl("halt", "--state-dir", half, "--reason", "a look", cwd=tmp_path)
    assert halted.returncode == 0, halted.stderr
    assert verified(half).difference == ""


def test_a_real_start_goes_on_from_a_rotated_journal(tape: Path, half: Path, tmp_path: Path) -> None:
    rltraderctl("rotate", "--state-dir", half, cwd=tmp_path)
    run = rltraderd("--dry-run", "--bars", tape, "--state-dir", half, cwd=tmp_path, env=environment())
    assert run.returncode == 0, run.stderr
    assert summary_of(run)["halted"] == ""


# --- archives -----------------------------------------------------------------------------------------------------


def test_an_archive_holds_the_rows_since_the_last_one_and_is_provable_alone(
    desk: Desk, half: Path, tmp_path: Path
) -> None:
    first = archive(half / FILE, "2024-07-01", 5)
    assert first is not None
    at = table(half, "events")[-1][0]
    assert desk.run(half).failure is None
    second = archive(half / FILE, "2024-07-02", 5)
    assert second is not None
    reader = JournalReader(second)
    rows = reader.query("SELECT min(id) AS low, max(id) AS high FROM events")[0]
    reader.close()
    assert (rows["low"], rows["high"]) == (at, table(half, "events")[-1][0])
    assert second.stat().st_size < (half / FILE).stat().st_size * 0.8
    for part in (first, second):
        result = rltraderctl("verify", "--state-dir", half, "--file", part, cwd=tmp_path)
        assert result.returncode == 0, result.stdout
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(second, alone / FILE)
    assert state_digest(alone) == state_digest(half)


def test_what_a_desk_keeps_counts_whole_for_the_disk(half: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (half / "archive").mkdir()
    (half / "archive" / "2024-07-01.sqlite").write_bytes(bytes(3 << 20))
    (half / ROTATED).mkdir()
    (half / ROTATED / "000000000001-000000000009.sqlite").write_bytes(bytes(4 << 20))
    (half / f"{FILE}-wal").write_bytes(bytes(2 << 20))
    monkeypatch.setattr("daemon.reports.archive.shutil.disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, 1 << 20))
    low = disk_is_low(half / FILE)
    assert low is not None
    assert low[1] == 9 + ((half / FILE).stat().st_size >> 20)


# --- what is asked ------------------------------------------------------------------------------------------------


def test_what_a_start_and_an_end_of_day_read_does_not_grow_with_the_journal(desk: Desk, half: Path) -> None:
    """SQLite's own operations, counted: twenty thousand older events and two thousand older orders add next to none."""
    assert archive(half / FILE, "2024-07-01", 5) is not None
    assert desk.run(half).failure is None
    counts: list[Counter[str]] = []
    for rows in (0, 20_000):
        path = half.with_name(f"past-{rows}")
        shutil.copytree(half, path)
        shutil.rmtree(path / "archive")
        if rows:
            put_before(path, rows)
        assert archive(path / FILE, "2024-07-01", 5) is not None
        session = recovered(path).machine.state.session.session
        assert session is not None
        works: dict[str, Callable[[], object]] = {
            "start": partial(recovered, path),
            "report": partial(write_report, path / FILE, session),
            "archive": partial(archive, path / FILE, "2024-07-02", 5),
            "head": partial(newest_head, path / FILE),
            "disk": partial(disk_is_low, path / FILE),
        }
        counts.append(Counter())
        for name, work in works.items():
            with operations() as counter:
                work()
            counts[-1][name] = counter["total"] * EVERY
    assert counts[0]["report"] > 1000
    grown = {name: counts[1][name] - counts[0][name] for name in counts[0]}
    assert {name: more for name, more in grown.items() if more > 2000} == {}


def test_a_journal_from_before_gets_its_indexes_with_its_first_commit(desk: Desk, half: Path) -> None:
    for name in INDEXES:
        execute(half, f"DROP INDEX {name}")
    assert desk.run(half).failure is None
    reader = JournalReader(half / FILE)
    there = {row["name"] for row in reader.query("SELECT name FROM sqlite_schema WHERE type = 'index'")}
    reader.close()
    assert there >= INDEXES
