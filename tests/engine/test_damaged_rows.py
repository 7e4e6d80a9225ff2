"""A live desk whose journal has a damaged row starts all the same: halted, without that row, and provable from there.

Expected states are those of a machine that was never given the rows that are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

import pytest
from msgspec.structs import replace

from daemon.app.offline.command import command_offline, rotate_offline
from daemon.cli import ctl
from daemon.core.effects import SubmitOrder
from daemon.core.events import ClockTicked, Event, PauseRequested, RunStarted
from daemon.core.limits import Trading
from daemon.core.state import encode_state
from daemon.core.step import Machine
from daemon.engine.follow import Follower
from daemon.engine.recover import code_digest, fresh_machine, identity_of, libraries, recover
from daemon.engine.state_dir import open_state_dir
from daemon.journal.rows import CommitBatch, HashChain, encode_effects
from strategies.registry import strategy
from tests.support.desks.desk_run import execute, recovered, table, verified

NOW = 1_720_000_000_000_000_000
META = {"mode": "paper", "account": "paper", "strategy": "option_scalper", "feed": "sip", "desk": "scalper"}
START = RunStarted(
    NOW, "paper", "paper", "option_scalper", "epoch", code_digest(), "sip", Trading(), libraries=libraries()
)
EVENTS: tuple[Event, ...] = (
    START,
    *(ClockTicked(NOW + second * 10**9) for second in range(1, 6)),
    PauseRequested(NOW + 6 * 10**9, "lunch", "me"),
    *(ClockTicked(NOW + second * 10**9) for second in range(7, 12)),
)


NAME, CALL = "epoch-option_scalper-3-0-0", "SPY240705C00550000"
ENTRY = SubmitOrder(NAME, CALL, 1, 4, Decimal("2.50"), "buy_to_open", NOW + 60 * 10**9)


def machine_of(path: Path) -> Machine:
    state_dir = open_state_dir(path, META, "epoch")
    machine = fresh_machine(strategy("option_scalper"), identity_of(state_dir.meta), Trading())
    state_dir.journal.close()
    state_dir.close()
    return machine


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """A state directory that a killed desk left."""
    path = tmp_path / "state"
    machine = machine_of(path)
    state_dir = open_state_dir(path, META, "epoch")
    recovery = recover(state_dir.journal.reader(), machine, code_digest())
    chain, batch = HashChain(recovery.last_id + 1, recovery.head), CommitBatch()
    for event in EVENTS:
        step = machine.apply(event)
        batch.entries.append(chain.entry(step.state.seq, event, encode_effects(step.effects)))
    state_dir.journal.commit(batch)
    state_dir.journal.close()
    state_dir.close()
    return path


def without(folder: Path, rows: Sequence[int]) -> bytes:
    """The state of a desk that never had these rows; its events bear the same numbers."""
    machine = machine_of(folder)
    for row, event in enumerate(EVENTS, start=1):
        if row not in rows:
            machine.apply(event)
    return encode_state(replace(machine.state, seq=len(EVENTS) - 1))  # a start has no number


DAMAGES = {
    "another time": ("UPDATE events SET time_ns = time_ns + 1 WHERE id = 7", (7,)),
    "another reason": ("UPDATE events SET payload = replace(payload, 'lunch', 'launch') WHERE id = 7", (7,)),
    "no JSON": ("UPDATE events SET payload = '{' WHERE id = 7", (7,)),
    "no text": ("UPDATE events SET payload = x'ff00' WHERE id = 7", (7,)),
    "other effects": ("UPDATE events SET effects = '[{}]' WHERE id = 7", (7,)),
    "no number": ("UPDATE events SET seq = NULL WHERE id = 7", (7, 8)),
    "another hash": ("UPDATE events SET hash = zeroblob(32) WHERE id = 7", (7, 8)),  # the next hangs on it
    "a row is gone": ("DELETE FROM events WHERE id = 7", (7, 8)),
    "three rows are gone": ("DELETE FROM events WHERE id BETWEEN 6 AND 8", (6, 7, 8, 9)),
    "the last row": ("UPDATE events SET payload = '{}' WHERE id = 12", (12,)),
    "two rows": ("UPDATE events SET payload = '{}' WHERE id IN (4, 9)", (4, 9)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_row_is_left_out_and_the_rest_is_taken(state: Path, tmp_path: Path, damage: str) -> None:
    sql, lost_rows = DAMAGES[damage]
    execute(state, sql)
    recovery = recovered(state)
    assert encode_state(recovery.machine.state) == without(tmp_path / "other", lost_rows)
    assert recovery.handover is not None
    assert recovery.handover.damaged
    assert "the journal is damaged; " in recovery.handover.detail
    assert f"first row {lost_rows[0]}: damaged, left out" in recovery.handover.detail


def test_a_desk_with_a_damaged_journal_takes_commands_and_goes_on_halted(
    state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    execute(state, "UPDATE events SET payload = '{}' WHERE id = 7")
    assert ctl.main(["status", "--state-dir", str(state)]) == 0
    assert "its next start is halted (journal_damaged): the journal is damaged" in capsys.readouterr().out
    core_state, _ = command_offline(state, lambda now_ns: PauseRequested(now_ns, "a look", "ann"))
    assert core_state.risk.halt is not None
    assert core_state.risk.halt.reason == "journal_damaged"
    recovery = recovered(state)
    assert recovery.handover is None  # this code wrote a snapshot behind the damage
    assert encode_state(recovery.machine.state) == encode_state(core_state)
    assert [row[1] for row in table(state, "events")[-4:]] == [11, None, 12, 13]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [("SplitVoted", '{"type":"SplitVoted","time_ns":1}'), ("ClockTicked", '{"type":"ClockTicked","time_ns":"1"}')],
)
def test_an_event_that_another_release_raised_on_and_that_this_one_cannot_read_stops_no_start(
    state: Path, tmp_path: Path, kind: str, payload: str
) -> None:
    last = table(state, "events")[-1]
    row = HashChain(last[0] + 1, last[6]).row(None, last[2], kind, payload, '{"raised":"KeyError: planted"}')
    state_dir = open_state_dir(state, META, "epoch")
    batch = CommitBatch()
    batch.entries.append(row)
    state_dir.journal.commit(batch)
    state_dir.journal.close()
    state_dir.close()
    recovery = recovered(state)
    assert encode_state(recovery.machine.state) == without(tmp_path / "other", ())
    assert recovery.raised is None
    assert recovery.handover is not None
    assert f"first row {row.id} ({kind}): it is no event of this version" in recovery.handover.detail


def test_whoever_follows_leaves_out_a_row_that_was_whole_when_it_was_stepped(state: Path) -> None:
    follower = Follower(state)
    follower.advance()
    assert follower.state is not None
    assert follower.state.risk.pause is not None
    execute(state, "DELETE FROM snapshots")
    execute(state, "UPDATE events SET payload = '{}' WHERE id = 7")
    final, _ = command_offline(state, ClockTicked)
    assert final.risk.pause is None
    for _ in range(2):  # to the snapshot, and from there
        follower.advance()
    assert (follower.problem, follower.caught_up) == ("", True)
    assert (encode_state(follower.state), follower.generation) == (encode_state(final), 1)
    follower.close()


def test_verify_names_the_damaged_row_and_a_rotated_journal_is_proven_again(state: Path) -> None:
    execute(state, "UPDATE events SET payload = '{}' WHERE id = 7")
    command_offline(state, lambda now_ns: PauseRequested(now_ns, "a look", "ann"))
    assert verified(state).difference.startswith(
        "event row 7, sequence 6 (PauseRequested): the hash does not match: this row"
    )
    rotate_offline(state)
    assert verified(state).difference == ""


def test_an_order_that_left_with_a_damaged_row_stays_the_desk_s_own(state: Path) -> None:
    recovery = recovered(state)
    event = ClockTicked(NOW + 12 * 10**9)
    row = HashChain(recovery.last_id + 1, recovery.head).entry(len(EVENTS), event, encode_effects((ENTRY,)))
    state_dir = open_state_dir(state, META, "epoch")
    batch = CommitBatch()
    batch.entries.append(row)
    state_dir.journal.commit(batch)
    state_dir.journal.close()
    state_dir.close()
    execute(state, "UPDATE events SET payload = '{}' WHERE id = ?", row.id)
    core_state = recovered(state).machine.state
    (order,) = core_state.orders.values()
    assert (order.client_order_id, order.symbol, order.quantity) == (NAME, CALL, 4)
    assert core_state.seq == row.seq
