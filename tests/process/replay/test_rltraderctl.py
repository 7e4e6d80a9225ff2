"""`rltraderctl` end to end: it shows what the journal holds, explains a decision completely, commands a stopped desk.

What it shows is compared with the journal's own rows, read with plain SQL.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from daemon.cli import ctl
from daemon.cli.control import OF_A_TAPE
from daemon.core.events import Event
from daemon.core.session import NEW_YORK
from daemon.core.step import Step
from daemon.engine.engine import Engine
from daemon.journal.journal import FILE
from strategies.option_scalper import SPEC
from tests.support.desks.desk_at_work import in_background
from tests.support.desks.desk_run import (
    Desk,
    chained,
    command,
    environment,
    execute,
    table,
    tape_rows,
    verified,
    write_tape,
)
from tests.support.paths import REPOSITORY


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


def output_of(capsys: pytest.CaptureFixture[str], *arguments: object, code: int = 0) -> str:
    """Standard output of a command that ends with `code`, lines trimmed; standard error where it was refused."""
    assert ctl.main([str(argument) for argument in arguments]) == code
    output = capsys.readouterr()
    return output.err if code == 2 else output.out


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
    text = output_of(capsys, "verify", "--state-dir", state)
    assert text.startswith(f"identical: {count:,} events, {count:,} stepped again, ")
    assert len(text.splitlines()) == 1


def test_verify_names_a_difference_and_ends_with_1(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    execute(state, "UPDATE events SET effects = '[1]' WHERE seq = 500")
    text = output_of(capsys, "verify", "--state-dir", state, code=1)
    assert re.match(r"DIFFERENT: event row \d+, sequence 500 \(\w+\): the hash does not match", text)


def test_verify_says_which_part_other_code_wrote(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert desk.run(tmp_path / "state", code="0123456789ab").failure is None
    text = output_of(capsys, "verify", "--state-dir", tmp_path / "state")
    rows = len(table(tmp_path / "state", "events"))
    assert text.startswith(f"{rows:,} rows were written by other code (0123456789ab): their hashes were checked")
    assert "no difference found: " in text


def test_status_tells_the_desk_as_its_read_models_do(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = {row[0]: row[1] for row in cells(output_of(capsys, "status", "--state-dir", state))}
    equity = one(state, "SELECT * FROM equity ORDER BY time_ns DESC LIMIT 1")
    orders, fills = table(state, "orders"), table(state, "fills")
    assert rows["daemon"] == "not running"
    assert rows["mode"] == "replay, account paper, tape tape.csv"
    assert rows["last event"].startswith(f"{len(chained(state)):,} at ")
    assert (rows["halt"], rows["reconciled"]) == ("no", "yes")
    assert rows["model"] == "fixture (not promoted)"
    assert rows["equity"].startswith(f"{float(equity['equity_usd']):,.2f} USD, cash {float(equity['cash_usd']):,.2f}")
    realised = f"{float(equity['realized_usd']):+,.2f}".replace("-", "−")
    fees = one(state, "SELECT sum(fees_usd) AS usd FROM fills")["usd"]
    assert rows["equity"].endswith(f", realised {realised} after {fees:,.2f} of fees")
    counts = one(state, "SELECT count(*) AS n, total(pnl_usd > 0) AS won FROM trades WHERE left_ns IS NOT NULL")
    assert rows["trades"] == f"{counts['n']} closed by the desk, {counts['won']:.0f} won"
    assert rows["bars"] == "408 (0 rejected)"
    partial = one(
        state, "SELECT count(*) AS n FROM fills f JOIN orders o USING (client_order_id) WHERE f.cumulative < o.quantity"
    )["n"]
    assert rows["orders, fills"] == f"{len(orders)}, {len(fills)} ({partial} partial)"
    assert partial > 0


def test_events_lists_the_newest_by_kind_or_after_a_sequence(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    listed = output_of(capsys, "events", "--state-dir", state, "--kind", "OrderFilled", "--limit", "3", "--json")
    events = [json.loads(line) for line in listed.splitlines()]
    expected = [(row[0], json.loads(row[3])) for row in chained(state) if row[2] == "OrderFilled"][-3:]
    assert [(event["seq"], event["event"]) for event in events] == expected
    after = output_of(capsys, "events", "--state-dir", state, "--after", "700", "--limit", "4", "--json")
    assert [json.loads(line)["seq"] for line in after.splitlines()] == [701, 702, 703, 704]
    rows = cells(output_of(capsys, "events", "--state-dir", state, "--kind", "RunStarted"))
    assert [row[0] for row in rows] == ["seq", "start-up"]


def test_decisions_lists_the_newest_by_outcome(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = cells(output_of(capsys, "decisions", "--state-dir", state, "--outcome", "ordered", "--limit", "5"))[1:]
    expected = sorted(row[0] for row in table(state, "decisions") if row[12] == "ordered")[-5:]
    assert [int(row[0]) for row in rows] == expected
    query = "SELECT sum(o.filled) AS filled, max(o.quantity) AS wanted FROM orders o JOIN decisions d USING (work)"
    for number, *_, outcome, _ in rows:
        orders = one(state, f"{query} WHERE d.decision = {number}")  # one that replaces another asks for the rest
        fill = "not filled" if not orders["filled"] else "filled" if orders["filled"] == orders["wanted"] else "partly"
        assert outcome.startswith(f"ordered, {fill}")


def explained(path: Path) -> sqlite3.Row:
    """A decision of the policy that led to an order with several fills."""
    return one(
        path,
        "SELECT d.* FROM decisions d JOIN orders o USING (work) JOIN fills f USING (client_order_id) "
        "WHERE d.kind = 'policy' OR d.row IS NOT NULL GROUP BY d.decision HAVING count(f.cumulative) > 1 LIMIT 1",
    )


@pytest.mark.parametrize("form", ["ns", "iso", "new_york"])
def test_a_decision_is_explained_completely(state: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    row = explained(state)
    moment = datetime.fromtimestamp(row["bar_ns"] // 10**9, UTC)
    times = {
        "ns": str(row["bar_ns"]),
        "iso": moment.isoformat(),
        "new_york": moment.astimezone(NEW_YORK).strftime("%Y-%m-%dT%H:%M"),
    }
    text = output_of(capsys, "decisions", "--state-dir", state, "--bar", times[form])
    assert f"decision {row['decision']} · bar {new_york(row['bar_ns'])}" in text
    table_rows = cells(text)
    features = np.frombuffer(row["row"], "<f4")
    assert len(features) == len(SPEC.features) == 23
    for number, (name, value) in enumerate(zip(SPEC.features, features.tolist(), strict=True)):
        assert [f"{number} {name}", f"{value:+.6f}"] in table_rows
    logits = np.array(json.loads(row["logits"]))
    softmax = np.exp(logits / 0.7) / np.exp(logits / 0.7).sum()
    for name, logit, share in zip(SPEC.actions, logits.tolist(), softmax.tolist(), strict=True):
        assert [name, f"{logit:+.4f}", f"{share:.4f}"] in table_rows
    assert f"model fixture, temperature 0.7, confidence {softmax.max():.4f}" in text
    assert f"action {row['action']}, resolved to {row['resolved']}, target {row['target']}" in text
    assert f"outcome: {row['outcome']}" in text
    for gate, verdict in json.loads(row["gates"]).items():
        words = {"": "passed", None: "not put to this intent"}.get(verdict, f"DENIED: {verdict}")
        assert [gate, words] in table_rows
    db = sqlite3.connect(state / FILE)
    orders = db.execute("SELECT client_order_id, status FROM orders WHERE work = ?", (row["work"],)).fetchall()
    for name, status in orders:
        assert any(line[0] == name and line[4] == status for line in table_rows)
        for quantity, price in db.execute("SELECT quantity, price FROM fills WHERE client_order_id = ?", (name,)):
            assert any(line[:3] == [name, str(quantity), price] for line in table_rows)
    db.close()


def test_a_denied_decision_shows_every_gate_that_denied_it(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    row = one(state, "SELECT * FROM decisions WHERE outcome = 'denied' ORDER BY decision LIMIT 1")
    table_rows = cells(output_of(capsys, "decisions", "--state-dir", state, "--bar", row["bar_ns"]))
    denied = {gate: reason for gate, reason in json.loads(row["gates"]).items() if reason}
    assert denied
    for gate, reason in denied.items():
        assert [gate, f"DENIED: {reason}"] in table_rows


def test_a_bar_without_a_decision_names_the_nearest(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output_of(capsys, "decisions", "--state-dir", state, "--bar", "2024-10-22T09:31", code=2)
    first = one(state, "SELECT bar_ns FROM decisions ORDER BY bar_ns LIMIT 1")["bar_ns"]
    assert text == (
        f"rltraderctl: no decision for the bar that starts 2024-10-22 09:31:00; the nearest one is {new_york(first)}\n"
    )


def test_a_time_that_is_none_is_refused_with_an_example(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = output_of(capsys, "decisions", "--state-dir", state, "--bar", "noon", code=2)
    assert "--bar 'noon' is no time: write 2024-08-05T10:15 (New York)" in text


def test_halt_and_resume_are_journaled_with_reason_and_person_and_hold_for_the_next_run(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    stop = Desk.run(desk, state, engine_made=lambda engine: engine.stop("at once"))
    assert stop.failure is None
    count = len(chained(state))
    text = output_of(capsys, "halt", "--state-dir", state, "--reason", "[/red] lunch [bold]", "--who", "ann")
    ann = f"offline/ann (uid {os.getuid()})"
    assert text.splitlines() == [
        f"journaled as event {count + 1}; halted: operator: [/red] lunch [bold] (by {ann})",
        f"holds nothing; no order at work; {OF_A_TAPE}",
    ]
    status = output_of(capsys, "status", "--state-dir", state)
    assert f"operator: [/red] lunch [bold] (by {ann}), since " in status
    assert json.loads(chained(state)[-1][3]) == {
        "type": "HaltRequested",
        "time_ns": chained(state)[-1][1],
        "reason": "operator",
        "detail": "[/red] lunch [bold]",
        "who": ann,
        "strategy": False,
    }
    halted = desk.run(state)
    assert halted.failure is None
    assert table(state, "orders") == []
    text = output_of(capsys, "resume", "--state-dir", state, "--reason", "back", "--who", "ann")
    assert re.match(r"journaled as event [\d,]+; not halted", text)
    assert cells(output_of(capsys, "events", "--state-dir", state, "--kind", "HaltRequested"))[-1][3].startswith("{")
    assert verified(state).difference == ""


def test_a_command_names_the_one_that_leads_on_and_a_look_does_so_at_a_terminal_alone(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "state"
    assert desk.run(state, engine_made=lambda engine: engine.stop("at once")).failure is None

    def follows(*arguments: str) -> str:
        assert ctl.main([*arguments, "--state-dir", str(state)]) == 0
        return capsys.readouterr().err

    assert follows("halt", "--reason", "x") == f"next: rltraderctl resume --reason TEXT --state-dir {state}\n"
    assert follows("status") == ""
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert follows("status") == f"next: rltraderctl resume --reason TEXT --state-dir {state}\n"
    assert follows("status", "--json") == ""
    assert follows("resume", "--reason", "x") == f"next: rltraderctl status --state-dir {state}\n"
    assert follows("events") == f"next: rltraderctl decisions --state-dir {state}\n"


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
        output_of(capsys, "halt", "--state-dir", state, "--reason", "again")
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
    assert "--reason is empty" in output_of(capsys, "resume", "--state-dir", state, "--reason", reason, code=2)
    assert len(chained(state)) == before
    with pytest.raises(SystemExit):
        ctl.main(["resume", "--state-dir", str(state)])
    assert "required: --reason" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["verify", "status", "events", "decisions", "halt", "resume"])
def test_a_missing_journal_is_refused_and_nothing_is_made(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    more = ("--reason", "x") if command in ("halt", "resume") else ()
    text = output_of(capsys, command, "--state-dir", tmp_path / "none", *more, code=2)
    assert "no journal here; is this the right --state-dir?" in text
    assert list(tmp_path.iterdir()) == []


def test_a_desk_that_never_ran_takes_no_command_and_has_a_status(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh = desk.fresh_state(tmp_path / "state")
    fresh.journal.close()
    fresh.close()
    text = output_of(capsys, "halt", "--state-dir", tmp_path / "state", "--reason", "x", code=2)
    assert "the desk has not run yet, so there is nothing to command: start it once" in text
    assert "last event" in output_of(capsys, "status", "--state-dir", tmp_path / "state")
    assert "no event in" in output_of(capsys, "events", "--state-dir", tmp_path / "state", code=2)
    assert "no decision in" in output_of(capsys, "decisions", "--state-dir", tmp_path / "state", code=2)


@pytest.mark.parametrize("command", ["verify", "status", "events", "decisions"])
def test_reading_changes_no_byte_of_the_journal(state: Path, capsys: pytest.CaptureFixture[str], command: str) -> None:
    before: dict[str, Any] = {"journal": (state / FILE).read_bytes(), "lock": (state / "lock").read_bytes()}
    output_of(capsys, command, "--state-dir", state)
    assert (state / FILE).read_bytes() == before["journal"]
    assert (state / "lock").read_bytes() == before["lock"]


# --- a running desk -----------------------------------------------------------------------------------------------


def test_a_running_desk_is_commanded_through_its_socket_and_says_what_came_of_it(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    with in_background(desk, state, 320):
        options = ("--state-dir", state, "--reason", "news", "--who", "ann")
        ann, count = f"control/ann (uid {os.getuid()})", len(chained(state))
        paused = output_of(capsys, "pause", *options).splitlines()
        assert paused[0] == f"journaled as event {count + 1:,}; not halted; paused: news (by {ann})"
        assert re.fullmatch(r"holds \d+ SPY\w+; no order at work", paused[1])
        flat = output_of(capsys, "flatten", *options, "--yes").splitlines()
        assert flat[0].startswith(f"journaled as event {count + 2:,}; halted: flatten: news (by {ann}); paused: ")
        assert re.fullmatch(r"holds \d+ SPY\w+; 1 order at work; 1 sent", flat[1])
        resumed = output_of(capsys, "resume", *options).splitlines()
        assert re.fullmatch(r"journaled as event [\d,]+; not halted", resumed[0])
        assert output_of(capsys, "reload", *options).startswith("journaled as event ")
        kinds = [row[2] for row in chained(state)]
        commands = ("PauseRequested", "FlattenRequested", "ResumeRequested", "ReloadRequested")
        assert [kind for kind in kinds if kind in commands] == list(commands)
    assert verified(state).difference == ""


def test_a_running_desk_without_a_socket_is_named_with_the_cure(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    with in_background(desk, state, 1, socket=False):
        text = output_of(capsys, "halt", "--state-dir", state, "--reason", "x", code=2)
        assert f"the daemon of this desk (process {os.getpid()}): " in text
        assert "has no control socket: it is starting (try again in a moment)" in text
        assert "control.enabled = false" in text
    assert "HaltRequested" not in [row[2] for row in chained(state)]


def test_what_a_running_desk_refuses_is_said_in_its_words(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    with in_background(desk, state, 1):
        text = output_of(capsys, "halt", "--state-dir", state, "--reason", "two\nlines", code=2)
        assert f"process {os.getpid()} refused the halt: reason has text with control characters" in text


# --- a stopped one ------------------------------------------------------------------------------------------------


def test_pause_and_flatten_of_a_stopped_desk_wait_for_its_next_start(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    engines: list[Engine] = []

    def while_holding(_: Event, step: Step) -> None:
        if step.state.book.positions and not step.state.orders:
            engines[0].stop("holding")

    assert desk.run(state, engine_made=engines.append, observe=while_holding).failure is None
    output_of(capsys, "pause", "--state-dir", state, "--reason", "news", "--who", "ann")
    lines = output_of(capsys, "flatten", "--state-dir", state, "--reason", "news", "--who", "ann").splitlines()
    assert "halted: flatten: news (by offline/ann" in lines[0]
    assert "; this dry run is stopped: what this asks for happens if it goes on" in lines[1]
    assert re.match(r"holds \d+ SPY", lines[1])
    assert desk.run(state).failure is None
    exits = [row for row in table(state, "orders") if row[2] == "exit" and row[3] == "operator"]
    assert exits
    assert cells(output_of(capsys, "status", "--state-dir", state))[3][1].startswith("flatten: news (by offline/ann")
    assert verified(state).difference == ""


def test_a_reload_of_a_stopped_desk_is_refused_because_its_start_reads_the_store(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = chained(state)
    text = output_of(capsys, "reload", "--state-dir", state, "--reason", "x", code=2)
    assert "no daemon runs here, so there is nothing to reload: its next start reads the model store anyway" in text
    assert chained(state) == before


def test_a_command_that_cannot_be_carried_out_offline_is_refused(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = output_of(capsys, "halt", "--state-dir", state, "--reason", "x" * 501, code=2)
    assert text == "rltraderctl: reason has 501 letters: expected 1 to 500 printable ones: say it in short\n"


def test_a_flatten_asks_a_person_at_a_terminal_first(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("no"))
    before = chained(state)
    text = output_of(capsys, "flatten", "--state-dir", state, "--reason", "x", code=2)
    assert text == "rltraderctl: nothing was touched\n"
    assert chained(state) == before
    monkeypatch.setattr("sys.stdin", Terminal("FLATTEN"))
    assert "halted: flatten" in output_of(capsys, "flatten", "--state-dir", state, "--reason", "x")


class Terminal(io.StringIO):
    """Standard input at which somebody sits and types one line."""

    def isatty(self) -> bool:
        return True


# --- status, live -------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def watching(state: Path) -> Iterator[subprocess.Popen[str]]:
    """`status --watch` without a terminal, as a process that is gone afterwards."""
    line = command("daemon.cli.ctl", "status", "--state-dir", state, "--watch", "--every", "0.1")
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)  # tests in the background are born deaf to it
    try:
        process = subprocess.Popen(
            line, cwd=REPOSITORY, env=environment(), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    finally:
        signal.signal(signal.SIGINT, handler)
    with process:
        try:
            yield process
        finally:
            process.kill()


def test_a_watched_desk_is_told_line_by_line_as_it_changes_and_ctrl_c_ends_it_well(
    desk: Desk, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "state"
    with in_background(desk, state, 5), watching(state) as process:
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        assert (first["strategy"], first["halt"]) == ("option_scalper", "")
        output_of(capsys, "halt", "--state-dir", state, "--reason", "news", "--who", "ann")
        second = json.loads(process.stdout.readline())
        assert second["seq"] == first["seq"] + 1
        assert second["halt"] == f"operator: news (by control/ann (uid {os.getuid()}))"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
        assert (process.returncode, out, err) == (0, "", "")


def looks(monkeypatch: pytest.MonkeyPatch, *between: Callable[[], object]) -> None:
    """Do these things between the looks, then press Ctrl-C."""
    actions = list(between)

    def nap(_: float) -> None:
        if not actions:
            raise KeyboardInterrupt
        actions.pop(0)()

    monkeypatch.setattr("daemon.cli.status.time.sleep", nap)


def test_a_stopped_desk_can_be_watched_and_only_changes_are_told(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    new_dir = state / "gone"

    def command(name: str) -> Callable[[], object]:
        return lambda: ctl.main([name, "--state-dir", str(state), "--reason", "x"])

    looks(monkeypatch, int, command("halt"), int, lambda: (state / FILE).rename(new_dir), int)
    text = output_of(capsys, "status", "--state-dir", state, "--watch")
    first, second, third = (json.loads(line) for line in text.splitlines() if line.startswith("{"))
    assert (first["halt"], second["halt"].startswith("operator: x (by offline/")) == ("", True)
    assert first["seq"] + 1 == second["seq"] == len(chained_in(new_dir))
    new_dir.rename(state / FILE)
    in_force = json.loads(output_of(capsys, "status", "--state-dir", state, "--json"))["limits"]
    assert first["limits"] == second["limits"] == in_force
    assert "risk.daily_loss_max" in {limit["key"] for limit in in_force}
    assert "no journal here" in third["problem"]


def chained_in(file: Path) -> list[Any]:
    db = sqlite3.connect(file)
    try:
        return db.execute("SELECT seq FROM events WHERE seq IS NOT NULL").fetchall()
    finally:
        db.close()


def test_on_a_terminal_a_watched_desk_is_its_table_again_and_again(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctl, "_console", lambda: Console(force_terminal=True, width=200, highlight=False, markup=False))
    rest = [row for row in table(state, "events") if row[0] > 300]
    execute(state, "DELETE FROM events WHERE id > 300")
    execute(state, "DELETE FROM snapshots")
    looks(monkeypatch, lambda: execute(state, f"INSERT INTO events VALUES ({','.join('?' * 7)})", *rest[0]))
    text = output_of(capsys, "status", "--state-dir", state, "--watch")
    numbers = re.findall(r"last event\S* *│\S* ([\d,]+) at", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text))
    chained_rows = sum(1 for row in table(state, "events")[:300] if row[1] is not None)
    assert sorted({int(number.replace(",", "")) for number in numbers}) == [chained_rows, chained_rows + 1]


def test_a_watched_desk_whose_journal_is_damaged_says_so_and_shows_what_was_known(
    state: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ctl, "_console", lambda: Console(force_terminal=True, width=200, highlight=False, markup=False))
    execute(state, "DELETE FROM snapshots")
    execute(state, "UPDATE events SET payload = '{}' WHERE id = 500")
    looks(monkeypatch)
    text = output_of(capsys, "status", "--state-dir", state, "--watch")
    assert "damaged at event row 500" in text
    assert "last event" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--watch",), "--watch follows one desk: name it with --state-dir"),
        (("--watch", "--state-dir", "none"), "no journal here; is this the right --state-dir?"),
    ],
)
def test_what_cannot_be_watched_is_refused(
    capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    assert message in output_of(capsys, "status", *arguments, code=2)


@pytest.mark.parametrize("text", ["0", "-1", "soon", "nan", "inf", "0.01", "3601"])
def test_a_time_between_two_looks_is_a_time(capsys: pytest.CaptureFixture[str], text: str) -> None:
    with pytest.raises(SystemExit):
        ctl.main(["status", "--watch", "--state-dir", "x", f"--every={text}"])
    assert f"{text!r} is no time; expected 0.1 to 3600 seconds" in capsys.readouterr().err
