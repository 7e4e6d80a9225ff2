"""`rltraderctl` end to end: it shows what the journal holds, explains a decision completely, commands a stopped desk.

What it shows is compared with the journal's own rows, read with plain SQL.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from daemon import ctl
from daemon.core.events import Event
from daemon.core.session import NEW_YORK
from daemon.core.step import Step
from daemon.shell.engine import Engine
from daemon.shell.journal import FILE
from strategies.option_scalper import SPEC
from tests.shell.desk_run import Desk, chained, execute, table, tape_rows, verified, write_tape


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(2, 75)))


@pytest.fixture(scope="module")
def original(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("original") / "state"
    assert desk.run(path).failure is None
    return path


@pytest.fixture
def state(original: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(original, tmp_path / "state"))


def shown(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """Standard output of a command that ends with `code`, lines trimmed; standard error where it was refused."""
    assert ctl.main([str(argument) for argument in arguments]) == code
    told = capsys.readouterr()
    return told.err if code == 2 else told.out


def cells(text: str) -> list[list[str]]:
    """The rows of all tables in the output."""
    return [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in text.splitlines() if line[:1] in "│┃"]


def one(path: Path, sql: str, *values: object) -> sqlite3.Row:
    db = sqlite3.connect(path / FILE)
    db.row_factory = sqlite3.Row
    try:
        row: sqlite3.Row = db.execute(sql, values).fetchone()
        return row
    finally:
        db.close()


def new_york(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 10**9, UTC).astimezone(NEW_YORK).strftime("%Y-%m-%d %H:%M:%S")


def test_verify_says_identical_with_its_counts(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    count = len(chained(state))
    text = shown(capsys, "verify", "--state-dir", state)
    assert text.startswith(f"identical: {count:,} events, {count:,} stepped again, ")
    assert len(text.splitlines()) == 1


def test_verify_names_a_difference_and_ends_with_1(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    execute(state, "UPDATE events SET effects = '[1]' WHERE seq = 500")
    text = shown(capsys, "verify", "--state-dir", state, code=1)
    assert re.match(r"DIFFERENT: event 500 \(\w+\): the hash does not match", text)


def test_verify_says_which_part_other_code_wrote(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.run(tmp_path / "state", code="0123456789ab").failure is None
    text = shown(capsys, "verify", "--state-dir", tmp_path / "state")
    rows = len(table(tmp_path / "state", "events"))
    assert text.startswith(f"{rows:,} rows were written by other code (0123456789ab): their hashes were checked")
    assert "no difference found: " in text


def test_status_tells_the_desk_as_its_read_models_do(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row[0]: row[1] for row in cells(shown(capsys, "status", "--state-dir", state))}
    equity = one(state, "SELECT * FROM equity ORDER BY time_ns DESC LIMIT 1")
    orders, fills = table(state, "orders"), table(state, "fills")
    assert rows["daemon"] == "not running"
    assert rows["mode"] == "replay, account paper, tape tape.csv"
    assert rows["last event"].startswith(f"{len(chained(state)):,} at ")
    assert (rows["halt"], rows["reconciled"]) == ("no", "yes")
    assert rows["model"] == "fixture (not promoted)"
    assert rows["equity"].startswith(f"{float(equity['equity_usd']):,.2f} USD, cash {float(equity['cash_usd']):,.2f}")
    assert rows["bars"] == "408 (0 rejected)"
    partial = one(
        state, "SELECT count(*) AS n FROM fills f JOIN orders o USING (client_order_id) WHERE f.cumulative < o.quantity"
    )["n"]
    assert rows["orders, fills"] == f"{len(orders)}, {len(fills)} ({partial} partial)"
    assert partial > 0


def test_events_lists_the_newest_by_kind_or_after_a_sequence(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = shown(capsys, "events", "--state-dir", state, "--kind", "OrderFilled", "--limit", "3", "--json")
    events = [json.loads(line) for line in listed.splitlines()]
    expected = [(row[0], json.loads(row[3])) for row in chained(state) if row[2] == "OrderFilled"][-3:]
    assert [(event["seq"], event["event"]) for event in events] == expected
    after = shown(capsys, "events", "--state-dir", state, "--after", "700", "--limit", "4", "--json")
    assert [json.loads(line)["seq"] for line in after.splitlines()] == [701, 702, 703, 704]
    rows = cells(shown(capsys, "events", "--state-dir", state, "--kind", "RunStarted"))
    assert [row[0] for row in rows] == ["seq", "start-up"]


def test_decisions_lists_the_newest_by_outcome(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = cells(shown(capsys, "decisions", "--state-dir", state, "--outcome", "ordered", "--limit", "5"))[1:]
    expected = sorted(row[0] for row in table(state, "decisions") if row[12] == "ordered")[-5:]
    assert [int(row[0]) for row in rows] == expected
    assert {row[5] for row in rows} == {"ordered"}


def explained(path: Path) -> sqlite3.Row:
    """A decision of the policy that led to an order with several fills."""
    return one(
        path,
        "SELECT d.* FROM decisions d JOIN orders o USING (work) JOIN fills f USING (client_order_id) "
        "WHERE d.kind = 'policy' OR d.row IS NOT NULL GROUP BY d.decision HAVING count(f.cumulative) > 1 LIMIT 1",
    )


@pytest.mark.parametrize("written", ["ns", "iso", "new_york"])
def test_a_decision_is_explained_completely(state: Path, capsys: pytest.CaptureFixture[str], written: str) -> None:
    row = explained(state)
    moment = datetime.fromtimestamp(row["bar_ns"] // 10**9, UTC)
    times = {
        "ns": str(row["bar_ns"]),
        "iso": moment.isoformat(),
        "new_york": moment.astimezone(NEW_YORK).strftime("%Y-%m-%dT%H:%M"),
    }
    text = shown(capsys, "decisions", "--state-dir", state, "--bar", times[written])
    assert f"decision {row['decision']} · bar {new_york(row['bar_ns'])}" in text
    found = cells(text)
    features = np.frombuffer(row["row"], "<f4")
    assert len(features) == len(SPEC.features) == 23
    for number, (name, value) in enumerate(zip(SPEC.features, features.tolist(), strict=True)):
        assert [f"{number} {name}", f"{value:+.6f}"] in found
    logits = np.array(json.loads(row["logits"]))
    softmax = np.exp(logits / 0.7) / np.exp(logits / 0.7).sum()
    for name, logit, share in zip(SPEC.actions, logits.tolist(), softmax.tolist(), strict=True):
        assert [name, f"{logit:+.4f}", f"{share:.4f}"] in found
    assert f"model fixture, temperature 0.7, confidence {softmax.max():.4f}" in text
    assert f"action {row['action']}, resolved to {row['resolved']}, target {row['target']}" in text
    assert f"outcome: {row['outcome']}" in text
    for gate, verdict in json.loads(row["gates"]).items():
        said = {"": "passed", None: "not put to this intent"}.get(verdict, f"DENIED: {verdict}")
        assert [gate, said] in found
    db = sqlite3.connect(state / FILE)
    orders = db.execute("SELECT client_order_id, status FROM orders WHERE work = ?", (row["work"],)).fetchall()
    for name, status in orders:
        assert any(line[0] == name and line[4] == status for line in found)
        for quantity, price in db.execute("SELECT quantity, price FROM fills WHERE client_order_id = ?", (name,)):
            assert any(line[:3] == [name, str(quantity), price] for line in found)
    db.close()


def test_a_denied_decision_shows_every_gate_that_denied_it(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = one(state, "SELECT * FROM decisions WHERE outcome = 'denied' ORDER BY decision LIMIT 1")
    found = cells(shown(capsys, "decisions", "--state-dir", state, "--bar", row["bar_ns"]))
    denied = {gate: reason for gate, reason in json.loads(row["gates"]).items() if reason}
    assert denied
    for gate, reason in denied.items():
        assert [gate, f"DENIED: {reason}"] in found


def test_a_bar_without_a_decision_names_the_nearest(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "decisions", "--state-dir", state, "--bar", "2024-10-22T09:31", code=2)
    first = one(state, "SELECT bar_ns FROM decisions ORDER BY bar_ns LIMIT 1")["bar_ns"]
    assert text == (
        f"rltraderctl: no decision for the bar that starts 2024-10-22 09:31:00; the nearest one is {new_york(first)}\n"
    )


def test_a_time_that_is_none_is_refused_with_an_example(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, "decisions", "--state-dir", state, "--bar", "noon", code=2)
    assert "--bar 'noon' is no time: write 2024-08-05T10:15 (New York)" in text


def test_halt_and_resume_are_journaled_with_reason_and_person_and_hold_for_the_next_run(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    stop = Desk.run(desk, state, engine_made=lambda engine: engine.stop("at once"))
    assert stop.failure is None
    count = len(chained(state))
    text = shown(capsys, "halt", "--state-dir", state, "--reason", "[/red] lunch [bold]", "--who", "ann")
    ann = f"offline/ann (uid {os.getuid()})"
    assert text.splitlines() == [
        f"journaled as event {count + 1}; halted: operator: [/red] lunch [bold] (by {ann})",
        "holds nothing; no order at work; the daemon is stopped: what this asks for happens at its next start",
    ]
    status = shown(capsys, "status", "--state-dir", state)
    assert f"operator: [/red] lunch [bold] (by {ann}), since " in status
    assert json.loads(chained(state)[-1][3]) == {
        "type": "HaltRequested",
        "time_ns": chained(state)[-1][1],
        "reason": "operator",
        "detail": "[/red] lunch [bold]",
        "who": ann,
    }
    halted = desk.run(state)
    assert halted.failure is None
    assert table(state, "orders") == []
    text = shown(capsys, "resume", "--state-dir", state, "--reason", "back", "--who", "ann")
    assert re.match(r"journaled as event [\d,]+; not halted", text)
    assert cells(shown(capsys, "events", "--state-dir", state, "--kind", "HaltRequested"))[-1][3].startswith("{")
    assert verified(state).difference == ""


def test_a_command_that_falls_on_a_thousandth_event_leaves_its_digest(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    engines: list[Engine] = []

    def stop_short(_: Event, step: Step) -> None:
        if step.state.seq >= 900:
            engines[0].stop("nearly there")

    assert desk.run(state, engine_made=engines.append, observe=stop_short).failure is None
    while len(chained(state)) < 1001:
        shown(capsys, "halt", "--state-dir", state, "--reason", "again")
    assert [row[0] for row in digests(state)] == [1000]
    assert verified(state).difference == ""


def digests(path: Path) -> list[tuple[Any, ...]]:
    db = sqlite3.connect(path / FILE)
    try:
        return db.execute("SELECT * FROM digests ORDER BY seq").fetchall()
    finally:
        db.close()


@pytest.mark.parametrize("reason", ["", "   "])
def test_a_resume_without_a_reason_is_refused(state: Path, capsys: pytest.CaptureFixture[str], reason: str) -> None:
    before = len(chained(state))
    assert "--reason is empty" in shown(capsys, "resume", "--state-dir", state, "--reason", reason, code=2)
    assert len(chained(state)) == before
    with pytest.raises(SystemExit):
        ctl.main(["resume", "--state-dir", str(state)])
    assert "required: --reason" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["verify", "status", "events", "decisions", "halt", "resume"])
def test_a_missing_journal_is_refused_and_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    more = ("--reason", "x") if command in ("halt", "resume") else ()
    text = shown(capsys, command, "--state-dir", tmp_path / "none", *more, code=2)
    assert "no journal here; is this the right --state-dir?" in text
    assert list(tmp_path.iterdir()) == []


def test_a_desk_that_never_ran_takes_no_command_and_has_a_status(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = desk.fresh_state(tmp_path / "state")
    fresh.journal.close()
    fresh.close()
    text = shown(capsys, "halt", "--state-dir", tmp_path / "state", "--reason", "x", code=2)
    assert "the desk has not run yet, so there is nothing to command: start it once" in text
    assert "last event" in shown(capsys, "status", "--state-dir", tmp_path / "state")
    assert "no event in" in shown(capsys, "events", "--state-dir", tmp_path / "state", code=2)
    assert "no decision in" in shown(capsys, "decisions", "--state-dir", tmp_path / "state", code=2)


@pytest.mark.parametrize("command", ["verify", "status", "events", "decisions"])
def test_reading_changes_no_byte_of_the_journal(state: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    before: dict[str, Any] = {"journal": (state / FILE).read_bytes(), "lock": (state / "lock").read_bytes()}
    shown(capsys, command, "--state-dir", state)
    assert (state / FILE).read_bytes() == before["journal"]
    assert (state / "lock").read_bytes() == before["lock"]
