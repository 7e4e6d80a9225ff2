"""The report of a session says what the journal says; the copy is sound while a writer writes, and whole or not there.

Figures are worked by hand from rows written here, or counted from the events of a replay, which the report never reads.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from daemon.app.offline.command import rotate_offline
from daemon.cli import ctl
from daemon.core.effects import RaiseAlarm, SubmitOrder
from daemon.core.events import ClockTicked, OrderFilled, SessionEnded
from daemon.core.records import DecisionRow, EquityRow, FillRow, OrderRow
from daemon.journal.journal import FILE, Journal
from daemon.journal.reader import JournalReader
from daemon.journal.rows import CommitBatch, HashChain, JournalError, encode_effects
from daemon.reports.archive import archive, disk_is_low
from daemon.reports.end_of_day import day_report, write_report
from daemon.reports.gather import read_day
from daemon.reports.page import day_page
from daemon.reports.record import Day, alarms_since_midnight, find_session
from daemon.reports.words import further_sentences
from strategies.kit.contract import Session
from tests.support.desks.desk_run import Desk, chained, read_models, table, tape_rows, write_tape

MINUTE = 60 * 10**9
OPEN, CLOSE = 1_720_000_200 * 10**9, 1_720_023_600 * 10**9
SESSION = Session("2024-07-03", OPEN, CLOSE)
CALL = "SPY240705C00550000"


class Usage(NamedTuple):
    """What `shutil.disk_usage` tells, in bytes."""

    total: int
    used: int
    free: int


def order(
    name: str, purpose: str, side: int, status: str, filled: int, fees: str, at_ns: int, of: str = CALL
) -> OrderRow:
    return OrderRow(name, f"w{name}", purpose, "", of, side, 5, "1.10", status, filled, "0", fees, at_ns, at_ns)


def decision(number: int, outcome: str, at_ns: int) -> DecisionRow:
    return DecisionRow(decision=number, kind="policy", bar_ns=at_ns - MINUTE, time_ns=at_ns, outcome=outcome)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    """A journal of one session, and of the ends of those around it."""
    file = Journal.create(tmp_path / FILE, {"strategy": "option_scalper"})
    batch = CommitBatch()
    batch.rows += [
        decision(1, "ordered", OPEN - 1),  # of the day before
        decision(2, "ordered", OPEN + MINUTE),
        decision(3, "hold", OPEN + 2 * MINUTE),
        decision(4, "hold", OPEN + 3 * MINUTE),
        decision(5, "denied", CLOSE),
        order("a", "entry", 1, "filled", 5, "0.25", OPEN - MINUTE),  # of the day before
        order("b", "entry", 1, "filled", 5, "0.25", OPEN + MINUTE),
        order("c", "entry", 1, "cancelled", 2, "0.10", OPEN + 2 * MINUTE),
        order("d", "exit", -1, "filled", 5, "0.28", OPEN + 3 * MINUTE),
        order("e", "exit", -1, "filled", 2, "0.12", CLOSE - MINUTE),
        order("f", "exit", -1, "filled", 100, "0.03", CLOSE - MINUTE, of="SPY"),  # shares of an exercise
        EquityRow(OPEN - 1000 * MINUTE, "9990.00", "9990.00", "-10.00", 0.001),
        EquityRow(OPEN + MINUTE, "9985.00", "9985.00", "-11.25", 0.002),
        EquityRow(OPEN + 2 * MINUTE, "10040.50", "9500.00", "-11.25", 0.002),
        EquityRow(CLOSE, "10012.37", "10012.37", "12.37", 0.003),
        EquityRow(CLOSE + 12 * 3600 * 10**9, "1.00", "1.00", "1.00", 0.9),  # of a later day
    ]
    chain = HashChain()
    steps = [
        (OPEN - 1, (RaiseAlarm("quarantine", "before"),)),
        (
            OPEN + MINUTE,
            (RaiseAlarm("stale", "one"), SubmitOrder("e-option_scalper-2-0-0", CALL, 1, 5, None, "buy_to_open", 9)),
        ),
        (OPEN + 2 * MINUTE, (RaiseAlarm("losses", "two"), RaiseAlarm("stale", "three"))),
        (OPEN + 3 * MINUTE, (SubmitOrder("RaiseAlarm-5-1-0", CALL, 1, 5, None, "buy_to_open", 9),)),
    ]
    for seq, (time_ns, effects) in enumerate(steps, start=1):
        batch.entries.append(chain.entry(seq, ClockTicked(time_ns), encode_effects(effects)))
    raised = '{"raised":"ValueError: \\"RaiseAlarm\\""}'
    batch.entries.append(chain.entry(None, ClockTicked(OPEN + 4 * MINUTE), raised))
    batch.entries.append(chain.entry(5, SessionEnded(CLOSE, "2024-07-03"), "[]"))
    file.commit(batch)
    file.close()
    return tmp_path / FILE


@pytest.fixture(scope="module")
def replayed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The state directory of a replay of two sessions."""
    folder = tmp_path_factory.mktemp("replayed")
    assert Desk(write_tape(folder / "tape.csv", tape_rows(2, 75))).run(folder / "state").failure is None
    return folder / "state"


def as_written(journal: Path, session: Session, day: Day | None = None) -> dict[str, Any]:
    """The report as a file holds it, without the name of its page."""
    document: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(day_report(journal, session, day)))
    assert document.pop("page") == ""
    return document


# --- the report ---------------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_session_worked_by_hand(journal: Path) -> None:
    assert as_written(journal, SESSION) == {
        "date": "2024-07-03",
        "decisions": {"ordered": 1, "hold": 2, "denied": 1},
        "orders": [
            {"purpose": "entry", "status": "cancelled", "n": 1},
            {"purpose": "entry", "status": "filled", "n": 1},
            {"purpose": "exit", "status": "filled", "n": 3},
        ],
        "contracts_bought": 7,
        "contracts_sold": 7,
        "shares_bought": 0,
        "shares_sold": 100,
        "fees_usd": "0.78",
        "equity_first_usd": "9985.00",
        "equity_last_usd": "10012.37",
        "realized_usd": "22.37",  # from -10.00 at the end of the day before
        "execution": None,
        "alarms": [
            {"time_ns": OPEN + MINUTE, "alarm": "stale", "detail": "one"},
            {"time_ns": OPEN + 2 * MINUTE, "alarm": "losses", "detail": "two"},
            {"time_ns": OPEN + 2 * MINUTE, "alarm": "stale", "detail": "three"},
        ],
        "chain": newest_head(journal),
    }


def test_damaged_rows_are_named_and_the_rest_of_the_day_is_told(journal: Path) -> None:
    with contextlib.closing(sqlite3.connect(journal)) as db, db:
        rows = ", ".join(str(row) for (row,) in db.execute("SELECT id FROM events ORDER BY id LIMIT 2 OFFSET 1"))
        torn = "payload = CAST(X'7bff' AS TEXT), effects = '[\"RaiseAlarm\"'"
        db.execute(f"UPDATE events SET {torn} WHERE id IN ({rows})")
    with contextlib.closing(JournalReader(journal)) as reader:
        day = read_day(reader, SESSION)
        assert alarms_since_midnight(reader, CLOSE) == (1, "quarantine")  # of three whose rows could hold one
    assert day.unread == 2
    assert "2 rows of its journal could not be read: what was in it is missing." in further_sentences(day)
    report = as_written(journal, SESSION, day)
    assert (report["decisions"], report["alarms"]) == ({"ordered": 1, "hold": 2, "denied": 1}, [])


def test_the_alarms_of_the_day_are_counted_beyond_a_rotation(replayed: Path, tmp_path: Path) -> None:
    shutil.copytree(replayed, tmp_path / "state")
    with contextlib.closing(sqlite3.connect(tmp_path / "state" / FILE)) as db:
        (newest_ns,) = db.execute("SELECT max(time_ns) FROM events").fetchone()
        midnight_ns = newest_ns - 16 * 3600 * 10**9  # the replay ends with a session's end at 16:00
        raised = db.execute(
            "SELECT json_extract(value, '$.name') FROM events, json_each(effects) WHERE time_ns >= ? "
            "AND json_extract(value, '$.type') = 'RaiseAlarm' ORDER BY events.id",
            (midnight_ns,),
        ).fetchall()
    assert raised
    rotate_offline(tmp_path / "state")
    with contextlib.closing(JournalReader(tmp_path / "state" / FILE)) as reader:
        assert alarms_since_midnight(reader, newest_ns) == (len(raised), raised[-1][0])


def test_a_stop_of_an_earlier_session_that_sells_today_is_in_todays_report(tmp_path: Path) -> None:
    name, yesterday = "e1-forecast_ensemble-3-0-0", OPEN - 86_400 * 10**9
    stop = OrderRow(name, "3.0", "protection", "stop", "AAPL", -1, 9, None, "filled", 9, "900", "0.5", yesterday, OPEN)
    sales = [(2, 2, "101", "0.2", yesterday + MINUTE), (9, 7, "100", "0.3", OPEN + MINUTE)]
    fills = [FillRow(name, 0, total, "AAPL", -1, n, usd, fee, at, at) for total, n, usd, fee, at in sales]
    file, batch, chain = Journal.create(tmp_path / FILE, {"strategy": "forecast_ensemble"}), CommitBatch(), HashChain()
    batch.rows += [stop, *fills]
    fill = OrderFilled(OPEN + MINUTE, name, "AAPL", -1, Decimal(100), OPEN + MINUTE, 9, Decimal(902), Decimal("0.5"), 7)
    batch.entries = [chain.entry(1, fill, "[]"), chain.entry(2, SessionEnded(CLOSE, SESSION.date), "[]")]
    file.commit(batch)
    file.close()
    day = read_day(tmp_path / FILE, SESSION)
    (order,) = day.quality.orders
    assert order.filled == order.quantity == 7
    assert (order.cost, order.fees) == (Decimal(700), Decimal("0.3"))
    report = as_written(tmp_path / FILE, SESSION, day)
    assert (report["shares_sold"], report["fees_usd"]) == (7, "0.3")
    assert [(holding.before, holding.quantity) for holding in day.held] == [(-2, -9)]


def test_a_daily_desks_session_holds_the_basket_that_it_decided_before_the_open(tmp_path: Path) -> None:
    file = Journal.create(tmp_path / FILE, {"strategy": "regime_switcher"})
    batch = CommitBatch()
    batch.rows += [
        decision(1, "ordered", OPEN - 15 * MINUTE),
        order("a", "exit", -1, "filled", 40, "4.00", OPEN - 15 * MINUTE, of="SPY"),
        order("b", "entry", 1, "filled", 70, "5.25", OPEN + MINUTE, of="QQQ"),
    ]
    file.commit(batch)
    file.close()
    report = as_written(tmp_path / FILE, SESSION)
    assert report["decisions"] == {"ordered": 1}
    assert (report["shares_bought"], report["shares_sold"], report["fees_usd"]) == (70, 40, "9.25")
    assert (report["contracts_bought"], report["contracts_sold"]) == (0, 0)


def test_a_session_without_anything_has_an_empty_report(journal: Path) -> None:
    month = 30 * 86_400 * 10**9
    assert as_written(journal, Session("2024-08-02", OPEN + month, CLOSE + month)) == {
        "date": "2024-08-02",
        "decisions": {},
        "orders": [],
        "contracts_bought": 0,
        "contracts_sold": 0,
        "shares_bought": 0,
        "shares_sold": 0,
        "fees_usd": "0",
        "equity_first_usd": None,
        "equity_last_usd": None,
        "realized_usd": None,
        "execution": None,
        "alarms": [],
        "chain": newest_head(journal),
    }


def newest_head(journal: Path) -> dict[str, object]:
    """The chain's head after the last row, by plain SQL."""
    with contextlib.closing(sqlite3.connect(journal)) as connection:
        row, digest = connection.execute("SELECT id, hex(hash) FROM events ORDER BY id DESC LIMIT 1").fetchone()
    return {"row": row, "head": digest.lower()}


def test_the_reports_of_a_replay_add_up_to_its_events(replayed: Path) -> None:
    events = [(row[2], json.loads(row[3]), json.loads(row[4])) for row in chained(replayed)]
    sessions = [
        Session(**event["session"]) if isinstance(event["session"], dict) else Session(*event["session"])
        for kind, event, _ in events
        if kind == "SessionScheduled"
    ]
    reports = [as_written(replayed / FILE, session) for session in sessions]
    fills = [event for kind, event, _ in events if kind == "OrderFilled"]
    assert fills
    for side, key in ((1, "contracts_bought"), (-1, "contracts_sold")):
        assert sum(report[key] for report in reports) == sum(f["quantity"] for f in fills if f["side"] == side) > 0
    fees: dict[str, Decimal] = {}
    for fill in fills:  # cumulative over an order
        fees[fill["client_order_id"]] = Decimal(fill["cumulative_fees"])
    assert sum(Decimal(report["fees_usd"]) for report in reports) == sum(fees.values())
    submitted = [effect for _, _, effects in events for effect in effects if effect["type"] == "SubmitOrder"]
    assert sum(row["n"] for report in reports for row in report["orders"]) == len(submitted)
    answers = sum(kind == "PolicyAnswered" for kind, _, _ in events)
    outcomes = sum((Counter(report["decisions"]) for report in reports), Counter())
    assert outcomes.total() >= answers > 0  # rules decide too
    alarms = [effect["name"] for _, _, effects in events for effect in effects if effect["type"] == "RaiseAlarm"]
    assert [alarm["alarm"] for report in reports for alarm in report["alarms"]] == alarms
    gained = sum(Decimal(report["realized_usd"]) for report in reports)
    assert gained == Decimal(table(replayed, "equity")[-1][3])
    assert reports[-1]["equity_last_usd"] == table(replayed, "equity")[-1][1]


def test_the_report_and_its_page_are_files_for_the_group_alone_and_are_written_anew(journal: Path) -> None:
    path = write_report(journal, SESSION)
    assert path == journal.parent / "reports" / "2024-07-03.json"
    day = read_day(journal, SESSION)
    assert json.loads(path.read_text()) == as_written(journal, SESSION, day) | {"page": "2024-07-03.html"}
    page = path.with_suffix(".html")
    assert page.read_text() == day_page(day)
    modes = [file.stat().st_mode & 0o777 for file in (path, page, path.parent)]
    assert modes == [0o640, 0o640, 0o750]
    assert write_report(journal, SESSION) == path
    assert sorted(file.name for file in path.parent.iterdir()) == ["2024-07-03.html", "2024-07-03.json"]


def test_the_report_of_a_replay_says_what_trading_cost(replayed: Path, tmp_path: Path) -> None:
    shutil.copy(replayed / FILE, tmp_path / FILE)
    reader = JournalReader(tmp_path / FILE)
    session = find_session(reader)
    reader.close()
    execution = json.loads(write_report(tmp_path / FILE, session).read_text())["execution"]
    first, last = str(session.open_ns), str(session.close_ns)
    submitted = [row for row in table(tmp_path, "orders") if first <= str(row[12]) <= last]
    assert execution["orders"] == len(submitted) > 0
    assert execution["works"] == len({row[1] for row in submitted})
    assert execution["unpriced_orders"] == 0
    assert Decimal(execution["slippage_usd"]) != 0


def test_a_page_that_cannot_be_made_costs_the_report_nothing_but_itself(journal: Path) -> None:
    path = write_report(journal, SESSION)
    path.with_suffix(".html").unlink()
    db = sqlite3.connect(journal)
    db.execute("UPDATE events SET effects = '[{}]' WHERE seq = 2")
    db.commit()
    db.close()
    report = json.loads(write_report(journal, SESSION).read_text())
    assert report["page"] == "not made: KeyError: 'type'"
    assert report["execution"] is None
    assert report["fees_usd"] == "0.78"
    assert [file.name for file in path.parent.iterdir()] == ["2024-07-03.json"]


def test_a_page_that_cannot_be_written_is_told_in_the_report(journal: Path) -> None:
    reports = journal.parent / "reports"
    (reports / "2024-07-03.html" / "in the way").mkdir(parents=True)
    report = json.loads(write_report(journal, SESSION).read_text())
    assert report["page"].startswith("not written: ")
    assert report["execution"] == {**report["execution"], "orders": 2}  # its two SubmitOrder
    assert sorted(file.name for file in reports.iterdir()) == ["2024-07-03.html", "2024-07-03.json"]


def test_a_report_that_cannot_be_made_leaves_the_last_one_and_no_part(journal: Path) -> None:
    path = write_report(journal, SESSION)
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    journal.write_bytes(b"no journal")
    with pytest.raises(JournalError):
        write_report(journal, SESSION)
    assert {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


# --- the copy -----------------------------------------------------------------------------------------------------


def test_the_copy_passes_verify_and_has_the_same_rows(
    replayed: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = archive(replayed / FILE, "2024-10-29", 3)
    assert path == replayed / "archive" / "2024-10-29.sqlite"
    assert path.stat().st_mode & 0o777 == 0o640
    (tmp_path / "state").mkdir()
    shutil.copy(path, tmp_path / "state" / FILE)
    assert ctl.main(["verify", "--state-dir", str(tmp_path / "state")]) == 0
    assert capsys.readouterr().out.startswith("identical: ")
    assert read_models(tmp_path / "state") == read_models(replayed)
    assert chained(tmp_path / "state") == chained(replayed)


def test_a_copy_made_while_a_writer_writes_holds_a_prefix_and_every_commit_whole(journal: Path) -> None:
    writer, chain, stop, start = Journal(journal), HashChain(7), threading.Event(), threading.Event()

    def write() -> None:
        seq = 5
        while not stop.is_set():
            batch = CommitBatch()
            for _ in range(3):  # commits of three
                seq += 1
                batch.entries.append(chain.entry(seq, ClockTicked(CLOSE + seq), "[]"))
            writer.commit(batch)
            start.set()

    thread = threading.Thread(target=write)
    thread.start()
    try:
        assert start.wait(180)
        copies = [archive(journal, f"2024-07-{day:02}", 9) for day in range(3, 8)]
    finally:
        stop.set()
        thread.join()
    lengths = []
    for copy in copies:
        assert copy is not None
        reader = JournalReader(copy)
        seqs = [entry.seq for entry in reader.entries() if entry.seq is not None]
        assert seqs == list(range(1, len(seqs) + 1))
        assert (len(seqs) - 5) % 3 == 0
        assert reader.query("PRAGMA integrity_check")[0][0] == "ok"
        assert reader.meta()["head"].startswith(f"{len(seqs) + 1}:")  # one row has no sequence
        reader.close()
        lengths.append(len(seqs))
    assert lengths == sorted(lengths)
    assert lengths[0] > 5
    assert writer.reader().count() >= lengths[-1]
    writer.close()


def test_only_the_newest_copies_are_kept(journal: Path) -> None:
    for day in range(1, 6):
        archive(journal, f"2024-07-{day:02}", 3)
    folder = journal.parent / "archive"
    assert sorted(file.name for file in folder.iterdir()) == [
        "2024-07-03.sqlite",
        "2024-07-04.sqlite",
        "2024-07-05.sqlite",
    ]
    assert folder.stat().st_mode & 0o777 == 0o750
    archive(journal, "2024-07-05", 1)  # the same day again, and fewer to keep
    assert [file.name for file in folder.iterdir()] == ["2024-07-05.sqlite"]


def test_no_copies_are_made_where_none_are_wanted(journal: Path) -> None:
    assert archive(journal, "2024-07-03", 0) is None
    assert not (journal.parent / "archive").exists()


def test_no_copy_is_begun_that_would_not_leave_as_much_room_again(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = journal.stat().st_size
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9 * size, 7 * size, 2 * size - 1))
    with pytest.raises(OSError, match=r"archive: 0 MiB are free, a copy needs 0 MiB and as much to live: no copy"):
        archive(journal, "2024-07-03", 3)
    assert list((journal.parent / "archive").iterdir()) == []
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(9 * size, 7 * size, 2 * size))
    assert archive(journal, "2024-07-03", 3) is not None


def test_a_copy_of_a_damaged_journal_fails_and_leaves_the_older_ones_and_no_part(journal: Path) -> None:
    older = archive(journal, "2024-07-02", 1)
    journal.write_bytes(b"no journal" * 5000)
    with pytest.raises(JournalError, match="not a journal or damaged"):
        archive(journal, "2024-07-03", 1)
    assert older is not None
    assert list(older.parent.iterdir()) == [older]


def test_what_a_killed_process_left_is_in_nobodys_way(journal: Path) -> None:
    (journal.parent / "archive").mkdir()
    for name in ("2024-07-03.part", "2024-07-03.part-journal"):
        (journal.parent / "archive" / name).write_bytes(b"half of a copy" * 1000)
    path = archive(journal, "2024-07-03", 3)
    assert path is not None
    assert list(path.parent.iterdir()) == [path]
    assert JournalReader(path).count() == 5


FULL_DISK = """
import shutil, sys
from pathlib import Path
from daemon.reports import archive
room = shutil.disk_usage("/")._replace(free=10**12)
shutil.disk_usage = lambda _: room  # it goes while the copy is made
try:
    print("made", archive.archive(Path(sys.argv[1]), "2024-07-03", 3))
except Exception as error:
    print(type(error).__name__)
"""


def test_a_disk_that_fills_up_meanwhile_is_left_without_a_part(journal: Path, tmp_path: Path) -> None:
    """A file size limit stands for the full disk: the write fails in the middle in the same way."""

    def limited() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    assert journal.stat().st_size > 40_000
    finished = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(journal)], capture_output=True, text=True, check=True, preexec_fn=limited
    )
    assert finished.stdout == "OperationalError\n"
    assert list((tmp_path / "archive").iterdir()) == []


def test_a_disk_is_low_when_ten_more_sessions_like_the_past_ones_do_not_fit(
    journal: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.truncate(journal, 3 << 20)  # three MiB for one session that ended
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, 30 << 20))
    assert disk_is_low(journal) is None
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage(0, 0, (30 << 20) - 1))
    assert disk_is_low(journal) == (29, 3)
