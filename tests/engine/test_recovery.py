"""Recovery comes to the same machine from every snapshot as from the first event, and refuses what it cannot trust."""

from __future__ import annotations

import hashlib
import re
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
from daemon.core.events import Event, QuotesReceived
from daemon.core.limits import Paper, Trading
from daemon.core.paper.paper import PaperBroker
from daemon.core.paper.quotes import QuotePaperBroker
from daemon.core.paper.shares import SharePaperBroker
from daemon.core.state import Identity, encode_state
from daemon.core.step import Machine, Step
from daemon.engine.engine import Engine
from daemon.engine.recover import (
    adopt_trading,
    code_digest,
    first_trading,
    fresh_machine,
    identity_of,
    libraries,
    machine_of,
    recover,
    restore,
    snapshot_of,
)
from daemon.journal.journal import FILE
from daemon.journal.reader import JournalReader
from daemon.journal.rows import JournalError, encode_effects, encode_event
from strategies.registry import strategy as strategy_named
from tests.support.desks.desk_run import (
    Crash,
    Desk,
    chained,
    crashed,
    execute,
    read_models,
    recovered,
    table,
    verified,
)
from tests.support.examples import examples


@pytest.fixture(scope="module")
def whole(desk: Desk, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("whole")
    assert desk.run(path, snapshot_events=1).failure is None
    return path


def encode(machine: Machine) -> tuple[bytes, bytes, list[str]]:
    """State, paper broker and what is still to come, as text."""
    queue = [encode_effects((q,)) if isinstance(q, AskPolicy) else encode_event(q) for q in machine.queue]
    return encode_state(machine.state), msgspec.json.encode(machine.market_state, order="deterministic"), queue


@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    assert encode(from_snapshot.machine) == encode(from_the_first.machine)
    assert from_snapshot.last_id == from_the_first.last_id == rows
    assert from_snapshot.head == from_the_first.head
    assert from_snapshot.fed == from_the_first.fed
    assert from_snapshot.code == from_the_first.code == code_digest()
    assert from_the_first.replayed == from_the_first.machine.state.seq
    assert from_snapshot.replayed <= from_the_first.replayed


def test_a_snapshot_is_read_back_as_the_state_that_was_written(whole: Path) -> None:
    machine = recovered(whole).machine
    snapshot = snapshot_of(machine, 9, "c0de", kept=True)
    assert (snapshot.event_id, snapshot.seq, snapshot.code, snapshot.kept) == (9, machine.state.seq, "c0de", 1)
    assert snapshot.digest == hashlib.sha256(snapshot.state).hexdigest()
    reader = JournalReader(whole / FILE)
    meta = reader.meta()
    other = fresh_machine(strategy_named(meta["strategy"]), identity_of(meta), first_trading(reader))
    reader.close()
    before = encode(machine)
    restore(other, snapshot)
    assert encode(other) == before


def test_a_snapshot_on_a_damaged_page_is_passed_over_for_the_one_before(whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole / FILE, tmp_path / FILE)
    execute(tmp_path, "VACUUM")  # the newest one's pages are the last ones
    newest = table(tmp_path, "snapshots")[-1]
    raw = bytearray((tmp_path / FILE).read_bytes())
    page = raw.rindex(newest[4][20_000:20_200]) // 8192 * 8192
    raw[page : page + 4] = b"\xff" * 4  # the number of the page that goes on
    (tmp_path / FILE).write_bytes(raw)
    recovery = recovered(tmp_path)
    assert recovery.passed_over == (f"row {newest[0]}: it cannot be read",)
    assert encode(recovery.machine) == encode(recovered(whole).machine)


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
    assert (QuotesReceived in machine.caused_events) is quotes  # on a live feed they come from outside
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
    digest = hashlib.sha256()
    for package in (strategies, daemon.core):
        assert package.__file__ is not None
        root = Path(package.__file__).parent
        for path in sorted(root.glob("**/*.py")):
            digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    assert code_digest() == digest.hexdigest()[:12]


@pytest.mark.parametrize("file_name", ["step.py", "desks/shares/rebalance.py", "desks/options.py"])
def test_one_byte_in_any_folder_changes_the_code_version(
    file_name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = tmp_path / "core"
    shutil.copytree(daemon.core.__path__[0], copy)
    before = code_digest()
    monkeypatch.setattr(daemon.core, "__path__", [str(copy)])
    assert code_digest() == before  # the same sources elsewhere are the same code
    path = copy / file_name
    path.write_bytes(path.read_bytes() + b"\n")
    assert code_digest() != before


def test_a_file_in_another_folder_is_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = tmp_path / "core"
    shutil.copytree(daemon.core.__path__[0], copy)
    before = code_digest()
    monkeypatch.setattr(daemon.core, "__path__", [str(copy)])
    (copy / "desks" / "shares" / "rebalance.py").rename(copy / "broker" / "rebalance.py")
    assert code_digest() != before


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
        "state = 7",  # a flipped bit in a row's header changes the types of its columns
        "market = 7.5",
        "kept = 'x'",
        "event_id = event_id + 1000000",
    ],
)
def test_recovery_takes_the_newest_whole_snapshot_where_the_newest_is_damaged(
    whole: Path, tmp_path: Path, change: str
) -> None:
    shutil.copy(whole / FILE, tmp_path / FILE)
    undisturbed = recovered(tmp_path)
    execute(tmp_path, f"UPDATE snapshots SET {change} WHERE event_id = (SELECT max(event_id) FROM snapshots)")
    recovery = recovered(tmp_path)
    assert encode(recovery.machine) == encode(undisturbed.machine)
    assert (recovery.head, recovery.fed, recovery.handover) == (undisturbed.head, undisturbed.fed, None)
    (why,) = recovery.passed_over
    assert re.match(r"event \d+: it (is damaged|stands at no event)", why)
    assert recovery.replayed > undisturbed.replayed == 0


@pytest.mark.parametrize("other", ["-1", "4611686018427387904", "'x'"])
def test_a_hash_of_another_type_at_the_snapshot_s_row_ends_no_recovery(whole: Path, tmp_path: Path, other: str) -> None:
    shutil.copy(whole / FILE, tmp_path / FILE)
    undisturbed = recovered(tmp_path)
    execute(tmp_path, f"UPDATE events SET hash = {other} WHERE id = (SELECT max(event_id) FROM snapshots)")
    assert encode(recovered(tmp_path).machine) == encode(undisturbed.machine)


def test_recovery_begins_at_the_first_row_where_one_bit_is_flipped_in_each_snapshot(
    whole: Path, tmp_path: Path
) -> None:
    shutil.copy(whole / FILE, tmp_path / FILE)
    execute(tmp_path, "VACUUM")  # else free pages hold copies
    undisturbed = recovered(tmp_path)
    raw = (tmp_path / FILE).read_bytes()
    for event_id, *_, state, market, _digest, _market_digest in table(tmp_path, "snapshots"):
        begins = (market if event_id % 2 else state)[:64]
        raw = raw.replace(begins, begins[:20] + bytes((begins[20] ^ 0b100,)) + begins[21:])  # as a failing disk does
    (tmp_path / FILE).write_bytes(raw)
    recovery = recovered(tmp_path)
    assert encode(recovery.machine) == encode(undisturbed.machine)
    assert len(recovery.passed_over) == len(table(tmp_path, "snapshots"))
    assert recovery.replayed == recovery.machine.state.seq


@pytest.mark.parametrize("damage", [b'{"type":"RunStarted","time_ns":', b'{"type":"RunStar\xf4ed"}', b"\xff"])
def test_a_first_start_that_is_damaged_is_in_the_way_of_no_whole_snapshot(
    whole: Path, tmp_path: Path, damage: bytes
) -> None:
    shutil.copy(whole / FILE, tmp_path / FILE)
    undisturbed = recovered(tmp_path)
    execute(tmp_path, "UPDATE events SET payload = CAST(? AS TEXT) WHERE kind = 'RunStarted'", damage)
    assert encode(recovered(tmp_path).machine) == encode(undisturbed.machine)
    execute(tmp_path, "DELETE FROM snapshots")
    with pytest.raises(JournalError, match=r"damaged at event row 1 \(RunStarted\)"):
        recovered(tmp_path)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ("UPDATE meta SET value = CAST(x'73f1' AS TEXT) WHERE key = 'strategy'", "damaged in its table meta"),
        ("UPDATE meta SET key = 'fepd' WHERE key = 'feed'", "table meta is damaged, feed is missing"),
        ("UPDATE meta SET value = 'option_scalpes' WHERE key = 'strategy'", "strategy is 'option_scalpes'"),
    ],
)
def test_what_the_journal_was_made_with_is_refused_by_name_where_it_is_damaged(
    whole: Path, tmp_path: Path, change: str, text: str
) -> None:
    shutil.copy(whole / FILE, tmp_path / FILE)
    execute(tmp_path, change)
    reader = JournalReader(tmp_path / FILE)
    with pytest.raises(JournalError, match=text):
        machine_of(reader)
    reader.close()


def test_a_snapshot_that_this_code_cannot_read_is_passed_over_and_names_both_codes(whole: Path, tmp_path: Path) -> None:
    shutil.copy(whole / FILE, tmp_path / FILE)
    undisturbed = recovered(tmp_path)
    state = b'{"strategy":17}'
    digest = hashlib.sha256(state).hexdigest()
    execute(tmp_path, "UPDATE snapshots SET state = ?, digest = ?, code = 'oldoldoldold'", state, digest)
    recovery = recovered(tmp_path)
    assert encode(recovery.machine) == encode(undisturbed.machine)
    assert re.search(
        rf"other code \(oldoldoldold\) .*this one \({code_digest()}\) cannot read it", recovery.passed_over[0]
    )


def test_events_that_do_not_follow_are_taken_as_they_happened(desk: Desk, tmp_path: Path) -> None:
    """What code that decides otherwise leaves: here a desk whose orders have other names than its journal says."""
    crashed(desk, tmp_path, 900, code="othercode123", snapshot_events=10**6)
    undisturbed = recovered(tmp_path)
    reader = JournalReader(tmp_path / FILE)
    meta = reader.meta()
    machine = fresh_machine(
        strategy_named(meta["strategy"]), identity_of({**meta, "epoch": "0000000000"}), first_trading(reader)
    )
    recovery = recover(reader, machine, code_digest())
    reader.close()
    handover = recovery.handover
    assert handover is not None
    assert (handover.former, handover.events) == ("othercode123", recovery.replayed)
    assert handover.differences > 0
    assert f"code othercode123 wrote the last {handover.events} events, {code_digest()} goes on" in handover.detail
    assert re.search(r"differ, first row \d+ \(\w+\): ", handover.detail)
    fills = read_models(tmp_path)["fills"]
    assert len(fills) > 5
    assert machine.state.book.positions == undisturbed.machine.state.book.positions  # what was filled is held
    assert machine.state.book.cash == undisturbed.machine.state.book.cash
    own_orders = {name for name in machine.state.orders if name.startswith("0000000000-")}
    assert not own_orders  # nothing counts as sent that was not
    assert set(machine.state.orders) == set(undisturbed.machine.state.orders)


def test_the_same_code_that_comes_to_something_else_goes_on_too_and_calls_it_a_bug(desk: Desk, tmp_path: Path) -> None:
    crashed(desk, tmp_path, 900)
    reader = JournalReader(tmp_path / FILE)
    meta = {**reader.meta(), "epoch": "0000000000"}
    execute(tmp_path, "DELETE FROM snapshots")
    machine = fresh_machine(strategy_named(meta["strategy"]), identity_of(meta), first_trading(reader))
    recovery = recover(reader, machine, code_digest())
    reader.close()
    assert recovery.handover is not None
    assert "the same code" in recovery.handover.detail
    assert "report it" in recovery.handover.detail


def test_other_libraries_are_named_where_they_come_to_something_else(desk: Desk, tmp_path: Path) -> None:
    crashed(desk, tmp_path, 900)
    execute(tmp_path, "DELETE FROM snapshots")
    reader = JournalReader(tmp_path / FILE)
    meta = {**reader.meta(), "epoch": "0000000000"}
    machine = fresh_machine(strategy_named(meta["strategy"]), identity_of(meta), first_trading(reader))
    recovery = recover(reader, machine, code_digest(), versions="numpy 9.9")
    assert recovery.handover is not None
    assert f"the libraries changed: {libraries()} wrote the last events, numpy 9.9 go on" in recovery.handover.detail
    same = fresh_machine(strategy_named(meta["strategy"]), identity_of(reader.meta()), first_trading(reader))
    assert recover(reader, same, code_digest(), versions="numpy 9.9").handover is None  # they come to the same
    reader.close()


def test_a_crash_under_other_code_is_taken_over_halted_and_proven_from_there(desk: Desk, tmp_path: Path) -> None:
    crashed(desk, tmp_path, 900, code="othercode123", snapshot_events=10**6)
    left_at = table(tmp_path, "events")[-1][0]
    assert desk.run(tmp_path).failure is None
    rows = table(tmp_path, "events")[left_at:]
    assert [row[3] for row in rows[:3]] == ["RunStarted", "ModelVerified", "CodeChanged"]
    alarms = [e for e in msgspec.json.decode(rows[2][5]) if e["type"] == "RaiseAlarm"]
    assert [alarm["name"] for alarm in alarms] == ["code_changed"]
    halt = recovered(tmp_path).machine.state.risk.halt
    assert halt is not None
    assert halt.reason == "code_changed"
    entries = [o for o in read_models(tmp_path)["orders"] if o[2] == "entry" and o[12] > rows[2][2]]
    assert entries == []
    snapshots = [(row[2], row[3]) for row in table(tmp_path, "snapshots") if row[3]]
    assert snapshots == [(code_digest(), 1)]
    assert verified(tmp_path).difference == ""
    assert verified(tmp_path, "othercode123").difference == ""


def test_a_start_that_passes_over_a_damaged_takeover_is_proven_once_the_damage_is_mended(
    desk: Desk, tmp_path: Path
) -> None:
    crashed(desk, tmp_path, 900, code="othercode123", snapshot_events=10**6)
    crashed(desk, tmp_path, 50, snapshot_events=10**6)
    [(row, _, _, flag, state, *_)] = table(tmp_path, "snapshots")
    assert flag
    execute(tmp_path, "UPDATE snapshots SET state = ?", state[:-1] + b"?")
    assert desk.run(tmp_path).failure is None
    assert "was changed" in verified(tmp_path).difference
    execute(tmp_path, "UPDATE snapshots SET state = ? WHERE event_id = ?", state, row)
    assert verified(tmp_path).difference == ""


def test_a_crash_in_mid_takeover_is_taken_over_again(desk: Desk, tmp_path: Path) -> None:
    crashed(desk, tmp_path, 900, code="othercode123", snapshot_events=10**6)
    for steps in (2, 4, 9):
        crashed(desk, tmp_path, steps)
    assert desk.run(tmp_path).failure is None
    assert verified(tmp_path).difference == ""
    assert sum(row[3] == "CodeChanged" for row in table(tmp_path, "events")) == 1


def test_a_clean_stop_is_gone_on_from_by_other_code_without_a_halt(desk: Desk, tmp_path: Path) -> None:
    def stop(engine: Engine) -> None:
        engines.append(engine)

    engines: list[Engine] = []

    def end(event: Event, _: Step) -> None:
        if engines[0].machine.state.seq == 800:
            engines[0].stop("SIGTERM")

    desk.run(tmp_path, engine_made=stop, observe=end, code="othercode123")
    assert desk.run(tmp_path).failure is None
    assert "CodeChanged" not in {row[3] for row in table(tmp_path, "events")}
    assert recovered(tmp_path).machine.state.risk.halt is None
    assert verified(tmp_path).difference == ""


def test_other_trading_rules_hold_from_the_restart_on_for_desk_and_paper_broker_alike(
    desk: Desk, tape: Path, tmp_path: Path
) -> None:
    one_at_a_time = Desk(tape, paper__contracts_per_minute=1)
    steps_left = 700

    def crash(boundary: str) -> None:
        nonlocal steps_left
        steps_left -= boundary == "before step"
        if steps_left == 0:
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
