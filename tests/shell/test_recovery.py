"""Recovery comes to the same machine from every snapshot as from the first event, and refuses what it cannot trust."""

from __future__ import annotations

import hashlib
import shutil
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import daemon.core
import strategies
from daemon.core.effects import AskPolicy
from daemon.core.events import QuotesReceived
from daemon.core.limits import Paper, Trading
from daemon.core.machine import Machine
from daemon.core.paper import PaperBroker
from daemon.core.quote_paper import QuotePaperBroker
from daemon.core.share_paper import SharePaperBroker
from daemon.core.state import Identity, encode_state
from daemon.shell.journal import FILE, JournalError, JournalReader, encode_effects, encode_event
from daemon.shell.recovery import (
    Recovered,
    adopt_trading,
    code_digest,
    first_trading,
    fresh_machine,
    identity_of,
    recover,
    restore,
    snapshot_of,
)
from strategies.registry import strategy as strategy_named
from tests.shell.desk_run import Crash, Desk, chained, execute, read_models, table, tape_rows, verified, write_tape


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tape(tmp_path_factory.mktemp("tape") / "tape.csv", tape_rows(3, 75))


@pytest.fixture(scope="module")
def desk(tape: Path) -> Desk:
    return Desk(tape)


@pytest.fixture(scope="module")
def whole(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole")
    assert desk.run(path, snapshot_events=1).failure is None
    return path


def recovered(path: Path) -> Recovered:
    reader = JournalReader(path / FILE)
    try:
        meta = reader.meta()
        machine = fresh_machine(strategy_named(meta["strategy"]), identity_of(meta), first_trading(reader))
        return recover(reader, machine, code_digest())
    finally:
        reader.close()


def told(machine: Machine) -> tuple[bytes, bytes, list[str]]:
    """State, paper broker and what is still to come, as text."""
    queue = [encode_effects((q,)) if isinstance(q, AskPolicy) else encode_event(q) for q in machine.queue]
    return encode_state(machine.state), msgspec.json.encode(machine.market_state, order="deterministic"), queue


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(rows=st.integers(min_value=3, max_value=1200), keep=st.integers(min_value=0, max_value=4))
def test_recovery_from_any_snapshot_always_equals_recovery_from_the_first_event(
    whole: Path, tmp_path_factory: pytest.TempPathFactory, rows: int, keep: int
) -> None:
    path = tmp_path_factory.mktemp("cut")
    shutil.copy(whole / FILE, path / FILE)
    execute(path, "DELETE FROM events WHERE id > ?", rows)  # as a crash leaves it: a prefix
    execute(path, "DELETE FROM snapshots WHERE event_id > ?", rows)
    for snapshot in table(path, "snapshots")[keep:]:
        execute(path, "DELETE FROM snapshots WHERE event_id = ?", snapshot[0])
    from_snapshot = recovered(path)
    execute(path, "DELETE FROM snapshots")
    from_the_first = recovered(path)
    assert told(from_snapshot.machine) == told(from_the_first.machine)
    assert from_snapshot.last_id == from_the_first.last_id == rows
    assert from_snapshot.head == from_the_first.head
    assert from_snapshot.fed == from_the_first.fed
    assert from_snapshot.code == from_the_first.code == code_digest()
    assert from_the_first.replayed == from_the_first.machine.state.seq
    assert from_snapshot.replayed <= from_the_first.replayed


def test_a_snapshot_is_read_back_as_the_state_that_was_written(whole: Path) -> None:
    machine = recovered(whole).machine
    written = snapshot_of(machine, 9, "c0de", kept=True)
    assert (written.event_id, written.seq, written.code, written.kept) == (9, machine.state.seq, "c0de", 1)
    assert written.digest == hashlib.sha256(written.state).hexdigest()
    reader = JournalReader(whole / FILE)
    meta = reader.meta()
    other = fresh_machine(strategy_named(meta["strategy"]), identity_of(meta), first_trading(reader))
    reader.close()
    before = told(machine)
    restore(other, written)
    assert told(other) == before


def test_a_snapshot_waits_for_what_is_under_way(whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole / FILE, tmp_path / FILE)
    bar = [row[0] for row in table(tmp_path, "events") if row[3] == "BarClosed"][-1]  # its quotes are still to come
    execute(tmp_path, "DELETE FROM events WHERE id > ?", bar)
    execute(tmp_path, "DELETE FROM snapshots WHERE event_id > ?", bar)
    machine = recovered(tmp_path).machine
    assert len(machine.queue) > 0
    with pytest.raises(ValueError, match="caused events are still to come"):
        snapshot_of(machine, 1, "c0de")


@pytest.mark.parametrize(
    ("strategy", "mode", "market", "quotes"),
    [
        ("option_scalper", "replay", PaperBroker, True),
        ("option_scalper", "dry_run", QuotePaperBroker, False),
        ("regime_switcher", "replay", SharePaperBroker, True),
        ("regime_switcher", "dry_run", SharePaperBroker, False),
    ],
)
def test_the_paper_broker_suits_strategy_and_mode_and_lives_by_the_state_s_rules(
    strategy: str, mode: str, market: type[Any], quotes: bool
) -> None:
    identity = Identity(mode, "paper", strategy, "e", "sip")
    machine = fresh_machine(strategy_named(strategy), identity, Trading(paper=Paper(cash_usd=Decimal(77))))
    assert type(machine.market) is market
    assert (QuotesReceived in machine.caused) is quotes  # on a live feed they come from outside
    assert machine.market_state.cash == 77
    other = fresh_machine(strategy_named(strategy), identity, Trading())
    restore(other, snapshot_of(machine, 1, "c0de"))
    assert other.market_state == machine.market_state
    assert type(other.market) is market
    assert other.market is not None
    assert other.market.start().cash == 77


def test_with_a_real_broker_there_is_no_paper_one() -> None:
    machine = fresh_machine(
        strategy_named("regime_switcher"), Identity("live", "a", "regime_switcher", "e", "sip"), Trading()
    )
    adopt_trading(machine)
    assert (machine.market, machine.market_state) == (None, None)


def test_the_code_version_is_a_digest_over_the_sources_that_decide() -> None:
    found = hashlib.sha256()
    for package in (strategies, daemon.core):
        assert package.__file__ is not None
        for path in sorted(Path(package.__file__).parent.glob("*.py")):
            found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    assert code_digest() == found.hexdigest()[:12]


def test_a_changed_event_after_the_snapshot_is_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole / FILE, tmp_path / FILE)
    execute(tmp_path, "DELETE FROM snapshots WHERE event_id > 400")
    execute(tmp_path, "UPDATE events SET time_ns = time_ns + 1 WHERE id = 900")
    with pytest.raises(JournalError, match=r"damaged at event row 900 .*run rltraderctl verify"):
        recovered(tmp_path)


def test_a_hole_after_the_snapshot_is_refused(whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole / FILE, tmp_path / FILE)
    execute(tmp_path, "DELETE FROM snapshots WHERE event_id > 400")
    execute(tmp_path, "DELETE FROM events WHERE id = 900")
    with pytest.raises(JournalError, match=r"damaged at event row 901 "):
        recovered(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        "state = CAST(replace(CAST(state AS TEXT), '\"fed\":', '\"fed\":1') AS BLOB)",
        'market = CAST(replace(CAST(market AS TEXT), \'"cash":"\', \'"cash":"1\') AS BLOB)',
        "digest = 'x'",
        "market_digest = 'x'",
        "event_id = event_id + 1000000",
    ],
)
def test_a_damaged_snapshot_is_refused(whole: Path, tmp_path: Path, change: str) -> None:
    shutil.copy(whole / FILE, tmp_path / FILE)
    execute(tmp_path, f"UPDATE snapshots SET {change} WHERE event_id = (SELECT max(event_id) FROM snapshots)")
    with pytest.raises(JournalError, match=r"the snapshot at event \d+ is damaged; run rltraderctl verify"):
        recovered(tmp_path)


def test_a_snapshot_that_this_code_cannot_read_names_both_codes(whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole / FILE, tmp_path / FILE)
    state = b'{"strategy":17}'
    digest = hashlib.sha256(state).hexdigest()
    execute(
        tmp_path,
        "UPDATE snapshots SET state = ?, digest = ?, code = 'oldoldoldold'",
        state,
        digest,
    )
    with pytest.raises(
        JournalError, match=rf"written by other code \(oldoldoldold\) .*{code_digest()}.*fresh --state-d"
    ):
        recovered(tmp_path)


def test_a_journal_whose_events_do_not_follow_is_refused_with_the_row(desk: Desk, tape: Path, tmp_path: Path) -> None:
    """What code that decides otherwise leaves: here a desk under other paper rules than its journal says."""
    left = 900

    def crash(boundary: str) -> None:
        nonlocal left
        left -= boundary == "before step"
        if left == 0:
            raise Crash

    desk.run(tmp_path, boundary=crash, group_events=1, code="othercode123")
    execute(tmp_path, "DELETE FROM snapshots")
    reader = JournalReader(tmp_path / FILE)
    meta = reader.meta()
    machine = fresh_machine(
        strategy_named(meta["strategy"]), identity_of({**meta, "epoch": "0000000000"}), first_trading(reader)
    )
    with pytest.raises(JournalError, match=r"replay differs at event row \d+ .*written by other code \(othercode123\)"):
        recover(reader, machine, code_digest())
    machine = fresh_machine(
        strategy_named(meta["strategy"]), identity_of({**meta, "epoch": "0000000000"}), first_trading(reader)
    )
    with pytest.raises(JournalError, match=r"the same code wrote it: run rltraderctl verify and report a bug"):
        recover(reader, machine, "othercode123")
    reader.close()


def test_other_trading_rules_hold_from_the_restart_on_for_desk_and_paper_broker_alike(
    desk: Desk, tape: Path, tmp_path: Path
) -> None:
    one_at_a_time = Desk(tape, paper__contracts_per_minute=1)
    left = 700

    def crash(boundary: str) -> None:
        nonlocal left
        left -= boundary == "before step"
        if left == 0:
            raise Crash

    desk.run(tmp_path, boundary=crash, group_events=1)
    restarted_at = len(table(tmp_path, "events"))
    assert one_at_a_time.run(tmp_path).failure is None
    fills = read_models(tmp_path)["fills"]
    times = {row[1]: row[0] for row in table(tmp_path, "events") if row[3] == "OrderFilled"}
    assert len(times) == len(fills)
    when = {row[0]: row[2] for row in table(tmp_path, "events")}[restarted_at]
    assert {fill[5] for fill in fills if fill[9] > when} == {1}
    assert 3 in {fill[5] for fill in fills if fill[9] <= when}
    assert verified(tmp_path).difference == ""
    assert len(chained(tmp_path)) > restarted_at
