"""Journal an operator's command for a stopped desk; the daemon's next start executes it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from daemon.app.desks import shown_desk
from daemon.core.events import Event, PanicNoticed, RunStarted
from daemon.core.state import State, digest
from daemon.core.step import Machine
from daemon.engine.engine import DIGEST_EVERY
from daemon.engine.own_code import end_watch, watch_start
from daemon.engine.recover import Recovered, adopt_trading, code_digest, libraries, recovered_desk, snapshot_of
from daemon.engine.state_dir import Rotation, StateDir, locked_by, open_state_dir, peek, rotate_after_recovery
from daemon.host.own_files import StateDirError
from daemon.host.panic_marker import panic_asker, set_aside
from daemon.host.passing import retry_while_busy
from daemon.journal.reader import JournalReader
from daemon.journal.rows import CommitBatch, HashChain, JournalError, decode_event, encode_effects
from daemon.operator.commands import refused_by


@contextmanager
def stopped_desk(
    path: Path, recovered: Callable[[JournalReader], Recovered] = recovered_desk
) -> Iterator[tuple[StateDir, Recovered]]:
    """Yield a stopped desk, locked and recovered.

    Raises StateDirError while a daemon runs or without a desk, JournalError for a damaged journal.
    """
    meta = peek(path)
    if meta is None:
        raise StateDirError(f"{path}: no journal here; is this the right --state-dir?")
    state_dir = open_state_dir(path, meta, meta["epoch"])
    try:
        reader = state_dir.journal.reader()
        yield state_dir, retry_while_busy(lambda: recovered(reader))
    finally:
        state_dir.journal.close()
        state_dir.close()


def rotate_offline(path: Path) -> Rotation:
    """Rotate the journal of a stopped desk: a new file starts from the newest state.

    Raises StateDirError while a daemon runs, NotAtRest where something is under way, JournalError, WriteFailed,
    OSError.
    """
    holder = locked_by(path)
    if holder:
        raise StateDirError(
            f"{path}: the desk runs (process {holder}): stop it, rotate, start it; with journal.rotate_mib it rotates "
            f"at its own starts"
        )
    with stopped_desk(path) as (state_dir, recovery):
        return rotate_after_recovery(state_dir, recovery)


def command_offline(
    path: Path, event: Callable[[int], Event], *, by_its_strategy: bool = False
) -> tuple[State[Any], str]:
    """Step one operator's event into the journal of a stopped desk; durable when this returns.

    Returns the state after it, and why the desk refuses the command ("" if it does not). `event(now_ns)` makes it at
    the journal's time. Its effects (cancels, exits) follow when the daemon starts. As at a start, a journal of other
    code is taken over first, and a panic since the stop is journaled first. If its own strategy cannot be imported, a
    stand-in steps the event, unless `by_its_strategy`. Raises StateDirError while a daemon runs, JournalError for a
    damaged journal.
    """
    recovered = recovered_desk if by_its_strategy else _recovered_without_its_strategy
    with stopped_desk(path, recovered) as (state_dir, recovery):
        if not recovery.code:
            raise StateDirError(f"{path}: the desk has not run yet, so there is nothing to command: start it once")
        machine, journal = recovery.machine, state_dir.journal
        first_events = taken_over(recovery, journal.reader())
        batch, chain = CommitBatch(), HashChain(recovery.last_id + 1, recovery.head)
        panic_events = _panic_events(path, machine)
        for new_event in (*first_events, *panic_events, event(machine.state.now_ns)):
            refusal = _into(batch, chain, machine, new_event)
        if first_events and not machine.queue:
            batch.snapshots.append(snapshot_of(machine, chain.next_id - 1, _code(recovery), kept=True))
        journal.commit(batch)
        if panic_events:
            set_aside(path)
        return machine.state, refusal


def _recovered_without_its_strategy(reader: JournalReader) -> Recovered:
    place = reader.path.parent
    watch_start(place)
    recovery, problem = shown_desk(reader)
    end_watch(place, passed=not problem)
    return recovery


def taken_over(recovery: Recovered, reader: JournalReader) -> list[Event]:
    """Return the events to journal first if other code or other libraries wrote the last rows."""
    code = _code(recovery)
    if recovery.own(code, libraries()):
        return []
    try:
        last = decode_event(reader.newest_of(RunStarted.__name__) or "")
    except msgspec.DecodeError as error:
        raise JournalError(f"{reader.path}: its newest start is damaged: {error}; run rltraderctl verify") from error
    assert isinstance(last, RunStarted)
    # else as it was
    run_started = replace(last, time_ns=recovery.machine.state.now_ns, code=code, libraries=libraries())
    return [run_started] if recovery.handover is None else [run_started, recovery.handover]


def _code(recovery: Recovered) -> str:
    """Return the digest of the code that decides for this desk."""
    return code_digest(recovery.machine.state.identity.strategy)


def _panic_events(path: Path, machine: Machine) -> list[PanicNoticed]:
    """Return the panic since this desk stopped, which comes before the command."""
    asker = panic_asker(path)
    return [PanicNoticed(machine.state.now_ns, asker)] if asker and machine.market is None else []


def _into(batch: CommitBatch, chain: HashChain, machine: Machine, event: Event) -> str:
    """Step an event and add its rows and effects to the batch; return why the desk refuses it, "" if it does not."""
    step = machine.apply(event)
    adopt_trading(machine)
    entry = chain.entry(step.state.seq, event, encode_effects(step.effects))
    batch.entries.append(entry)
    batch.rows.extend(step.rows)
    if entry.seq is not None and entry.seq % DIGEST_EVERY == 0:
        batch.digests.append((entry.seq, digest(step.state)))
    return refused_by(step.effects)
